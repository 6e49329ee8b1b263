// SentencePiece: text to sub-word ids and back, bpe and unigram (Kudo and Richardson 2018).

const UNKNOWN_PENALTY = 10;

class SentencePieceTokenizer {
  /** `bytes` are those of a model file; `vocabulary` are the sub-words by id where they are not the model's own. */
  constructor(bytes, vocabulary = null) {
    const model = parseModelProto(bytes);
    Object.assign(this, {model, pieces: model.pieces, ids: new Map(), longest: 1, vocabulary});
    this.vocabularyIds = vocabulary && new Map(vocabulary.map((text, id) => [text, id]));
    model.pieces.forEach(({text, type}, id) => {
      if (!["normal", "user_defined", "unused"].includes(type)) return;
      this.ids.set(text, id);
      this.longest = Math.max(this.longest, text.length);
    });
    this.userDefined = new PrefixMatcher(model.pieces.filter(({type}) => type === "user_defined").map(({text}) => text));
    this.normalizer = new Normalizer(model, this.userDefined);
    const scores = model.pieces.filter(({type}) => type === "normal").map(({score}) => score);
    this.lowest = scores.reduce((a, b) => Math.min(a, b), Infinity);
    this.highest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
    this.unknown = model.pieces.findIndex(({type}) => type === "unknown");
    this.byteIds = new Map(model.pieces.flatMap(({text, type}, id) => (type === "byte" ? [[text, id]] : [])));
  }

  /** Sub-word ids, without EOS. */
  encode(text) {
    if (!this.vocabulary) return this.split(text).map((piece) => this.ids.get(piece) ?? this.byteIds.get(piece) ?? this.unknown);
    // A tag >>x<< before a line, which the vocabulary knows, is one sub-word.
    const tag = text.match(/^>>.*?<</)?.[0], isTag = this.vocabularyIds.has(tag);
    const ids = this.split(isTag ? text.slice(tag.length) : text).map((piece) => this.vocabularyIds.get(piece) ?? UNK);
    return isTag ? [this.vocabularyIds.get(tag), ...ids] : ids;
  }

  /** The sub-words of a text. A run of unknown ones is one, or its bytes. */
  split(text) {
    const normalized = this.normalizer.normalize(text);
    if (!normalized) return [];
    const pieces = [];
    let afterUnknown = false;
    for (const piece of this.model.type === "bpe" ? this.encodeBpe(normalized) : this.encodeUnigram(normalized)) {
      const isUnknown = !this.ids.has(piece);
      if (isUnknown && this.model.byteFallback) pieces.push(...Array.from(encodeUtf8(piece), byteName));
      else if (isUnknown && afterUnknown) pieces[pieces.length - 1] += piece;
      else pieces.push(piece);
      afterUnknown = isUnknown;
    }
    return pieces;
  }

  /** Merge the pair of highest score, the leftmost among equals, as long as a pair forms a piece. */
  encodeBpe(normalized) {
    const symbols = [];
    for (let at = 0; at < normalized.length; ) {
      const symbol = this.userDefined.match(normalized, at), text = symbol || String.fromCodePoint(normalized.codePointAt(at));
      symbols.push({text, frozen: symbol !== "", previous: symbols.length - 1, next: symbols.length + 1});
      at += text.length;
    }
    symbols.at(-1).next = -1;
    const agenda = new PriorityQueue((a, b) => b.score - a.score || a.left - b.left), unusedParts = new Map();
    const consider = (left, right) => {
      if (left < 0 || right < 0 || symbols[left].frozen || symbols[right].frozen) return;
      const text = symbols[left].text + symbols[right].text, id = this.ids.get(text);
      if (id === undefined) return;
      agenda.push({left, right, score: this.pieces[id].score, length: text.length});
      if (this.pieces[id].type === "unused") unusedParts.set(text, [symbols[left].text, symbols[right].text]);
    };
    for (let i = 1; i < symbols.length; i++) consider(i - 1, i);
    for (let top; (top = agenda.pop()); ) {
      const left = symbols[top.left], right = symbols[top.right];
      if (!left.text || !right.text || left.text.length + right.text.length !== top.length) continue; // merged since
      left.text += right.text;
      left.next = right.next;
      if (right.next >= 0) symbols[right.next].previous = top.left;
      right.text = "";
      consider(left.previous, top.left);
      consider(top.left, left.next);
    }
    const split = (text) => (unusedParts.has(text) && this.pieces[this.ids.get(text)]?.type === "unused" ? unusedParts.get(text).flatMap(split) : [text]);
    const found = [];
    for (let i = 0; i >= 0; i = symbols[i].next) found.push(...split(symbols[i].text));
    return found;
  }

  /** The segmentation of highest total score (Viterbi). Totals are float32, as in SentencePiece. */
  encodeUnigram(normalized) {
    const byteOf = bytePositions(normalized), size = normalized.length;
    const totals = new Float32Array(size + 1), from = new Int32Array(size + 1).fill(-1);
    const unknownScore = Math.fround(this.lowest - UNKNOWN_PENALTY);
    const offer = (start, end, score) => {
      const total = score + totals[start];
      if (from[end] === -1 || total > totals[end]) {
        totals[end] = total;
        from[end] = start;
      }
    };
    for (let start = 0; start < size; ) {
      const character = normalized.codePointAt(start) >= 0x10000 ? 2 : 1;
      let isKnown = false;
      for (let end = start + character; end <= size && end - start <= this.longest; end++) {
        const id = this.ids.get(normalized.slice(start, end));
        if (id === undefined || this.pieces[id].type === "unused") continue;
        const {type, score} = this.pieces[id];
        // A user-defined symbol always wins.
        offer(start, end, type === "user_defined" ? (byteOf[end] - byteOf[start]) * this.highest - 0.1 : score);
        isKnown ||= end - start === character;
      }
      if (!isKnown) offer(start, start + character, unknownScore);
      start += character;
    }
    const found = [];
    for (let end = size; end > 0; end = from[end]) found.unshift(normalized.slice(from[end], end));
    return found;
  }

  /** The sub-word of an id. */
  piece(id) {
    return this.vocabulary?.[id] ?? this.pieces[id].text;
  }

  /** The model's own piece of an id: text and type. A sub-word that the model does not have is text as it is. */
  ownPiece(id) {
    if (!this.vocabulary) return this.pieces[id];
    if (id === UNK) return this.pieces[this.unknown];
    const text = this.vocabulary[id], own = this.ids.get(text) ?? this.byteIds.get(text);
    return own === undefined ? {text, type: "normal"} : this.pieces[own];
  }

  /** The text of ids; PAD, EOS and BOS have none. */
  decode(ids) {
    const {addDummyPrefix, removeExtraWhitespaces, unkSurface} = this.model;
    let text = "", atStart = true, bytes = [];
    const flush = () => {
      text += decodeUtf8(Uint8Array.from(bytes));
      bytes = [];
    };
    for (const id of ids) {
      const {text: piece, type} = this.ownPiece(id);
      if ([PAD, EOS, BOS].includes(id) || type === "control") continue;
      if (type === "byte") {
        bytes.push(Number(piece.slice(1, -1)));
        atStart = false;
        continue;
      }
      flush();
      if (type === "unknown") {
        text += unkSurface;
        atStart = false;
        continue;
      }
      let shown = piece;
      if (atStart && (addDummyPrefix || removeExtraWhitespaces) && shown.startsWith(SPACE)) {
        shown = shown.slice(SPACE.length);
        if (!removeExtraWhitespaces) atStart = false;
      }
      text += shown.replaceAll(SPACE, " ");
      if (shown) atStart = false;
    }
    flush();
    return this.vocabulary ? text.trim() : text;
  }
}

/** The piece of a byte. */
const byteName = (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;

/** A binary heap; `compare(a, b) < 0` where a comes first. */
class PriorityQueue {
  constructor(compare) {
    Object.assign(this, {compare, items: []});
  }

  push(item) {
    const {items, compare} = this;
    let at = items.push(item) - 1;
    for (let parent; at > 0 && compare(item, items[(parent = (at - 1) >> 1)]) < 0; at = parent) items[at] = items[parent];
    items[at] = item;
  }

  pop() {
    const {items, compare} = this, top = items[0], last = items.pop();
    if (!items.length) return top;
    let at = 0;
    for (let child; (child = 2 * at + 1) < items.length; at = child) {
      if (child + 1 < items.length && compare(items[child + 1], items[child]) < 0) child += 1;
      if (compare(last, items[child]) <= 0) break;
      items[at] = items[child];
    }
    items[at] = last;
    return top;
  }
}
