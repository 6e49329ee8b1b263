// The decoder one token at a time for several hypotheses, or a whole target at once (teacher forcing).

class IncrementalDecoder {
  /** `hidden` are the encoder's states of one sentence; `off` as headsOff returns it. */
  constructor(model, hidden, off = NOTHING_OFF) {
    Object.assign(this, {model, off, positions: 0});
    this.sourceSlots = Array.from({length: hidden.length / model.width}, (_, i) => i);
    this.caches = model.decoder.map((layer) => {
      const cross = new KeyValues(model.width);
      cross.append(...layer.cross_attention.project(hidden, "kv_proj"));
      return {self: new KeyValues(model.width), cross};
    });
    // The slots of the self-attention caches that each hypothesis sees. Only these lists move when beams are reordered.
    this.slots = [[]];
  }

  /** Append a token to each hypothesis; the logits of the next one, an array per hypothesis. */
  step(tokens) {
    const first = this.caches[0].self.length;
    this.slots = this.slots.map((slots, beam) => [...slots, first + beam]);
    const hidden = this.forward(tokens, () => this.positions, (beam) => this.slots[beam]);
    this.positions += 1;
    return this.split(this.model.logits(hidden), tokens.length);
  }

  /** Let hypothesis b continue the history of hypothesis beams[b]. */
  reorder(beams) {
    this.slots = beams.map((beam) => this.slots[beam]);
  }

  /** The logits of every position of a target that starts with BOS. `record(site, layer, query, head, slots, weights)`. */
  read(tokens, record = null) {
    const all = tokens.map((_, i) => i);
    const hidden = this.forward(tokens, 0, (position) => all.slice(0, position + 1), record);
    return this.split(this.model.logits(hidden), tokens.length);
  }

  forward(tokens, positions, visible, record = null) {
    let x = this.model.embed("target", tokens, positions);
    this.model.decoder.forEach((layer, i) => {
      const at = (site) => record && ((...row) => record(site, i, ...row));
      x = layer.forward(x, this.caches[i], {decoder: visible, cross: () => this.sourceSlots},
        {decoder: this.off.decoder[i], cross: this.off.cross[i]}, {decoder: at("decoder"), cross: at("cross")});
    });
    return this.model.finalStates("decoder_norm", x);
  }

  split(logits, count) {
    const size = logits.length / count;
    return Array.from({length: count}, (_, i) => logits.subarray(i * size, (i + 1) * size));
  }
}
