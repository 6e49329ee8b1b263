// SentencePiece's normalization: rules of a compiled character map, then spaces.

const SPACE = "▁";

/** A compiled character map: a double-array trie (Darts-clone) of UTF-8 byte strings, and the texts that replace them. */
class CharacterMap {
  constructor(blob) {
    const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength), size = view.getUint32(0, true);
    this.units = Uint32Array.from({length: size / 4}, (_, i) => view.getUint32(4 + 4 * i, true));
    this.texts = blob.subarray(4 + size);
  }

  /** The longest rule that matches at a place: [bytes matched, replacement], or null. */
  match(bytes, start) {
    const {units} = this, offset = (unit) => (unit >>> 10) << ((unit & 0x200) >>> 6);
    let node = offset(units[0]), found = null;
    for (let at = start; at < bytes.length; at++) {
      node ^= bytes[at];
      const unit = units[node];
      if ((unit & 0x800000ff) >>> 0 !== bytes[at]) break;
      node ^= offset(unit);
      if ((unit >>> 8) & 1) found = [at + 1 - start, units[node] & 0x7fffffff];
    }
    if (!found) return null;
    const [length, from] = found;
    return [length, decodeUtf8(this.texts.subarray(from, this.texts.indexOf(0, from)))];
  }
}

/** The longest of some texts at a place of a text; "" where there is none. */
class PrefixMatcher {
  constructor(texts) {
    this.texts = [...texts].filter(Boolean).sort((a, b) => b.length - a.length);
  }

  match(text, at) {
    return this.texts.find((known) => text.startsWith(known, at)) ?? "";
  }
}

class Normalizer {
  constructor(model, userDefined) {
    Object.assign(this, {model, userDefined, map: model.charsmap && new CharacterMap(model.charsmap)});
  }

  /** What the text becomes at a place, and how many characters (UTF-16 units) that uses. */
  next(text, bytes, byteOf, at) {
    const symbol = this.userDefined.match(text, at);
    if (symbol) return [symbol, symbol.length];
    const character = String.fromCodePoint(text.codePointAt(at)), found = this.map?.match(bytes, byteOf[at]);
    if (!found) return [character, character.length];
    let end = at;
    while (byteOf[end] < byteOf[at] + found[0]) end++;
    return [found[1], end - at];
  }

  normalize(given) {
    const {addDummyPrefix, removeExtraWhitespaces, escapeWhitespaces, spaceAsSuffix} = this.model;
    const text = given.toWellFormed?.() ?? given.replace(/\p{Surrogate}/gu, "\ufffd");
    const bytes = encodeUtf8(text), byteOf = bytePositions(text), space = escapeWhitespaces ? SPACE : " ";
    let at = 0, normalized = "";
    if (removeExtraWhitespaces) {
      while (at < text.length) {
        const [found, used] = this.next(text, bytes, byteOf, at);
        if (found !== " ") break;
        at += used;
      }
    }
    if (at >= text.length) return "";
    if (addDummyPrefix && !spaceAsSuffix) normalized += space;
    let afterSpace = removeExtraWhitespaces;
    while (at < text.length) {
      let [found, used] = this.next(text, bytes, byteOf, at);
      while (afterSpace && found.startsWith(" ")) found = found.slice(1);
      if (found) {
        normalized += escapeWhitespaces ? found.replaceAll(" ", SPACE) : found;
        afterSpace = found.endsWith(" ");
      }
      at += used;
      if (!removeExtraWhitespaces) afterSpace = false;
    }
    if (removeExtraWhitespaces) while (normalized.endsWith(space)) normalized = normalized.slice(0, -space.length);
    return addDummyPrefix && spaceAsSuffix ? normalized + space : normalized;
  }
}

/** For each UTF-16 unit of a text, and for its end, the place of its character in UTF-8. */
function bytePositions(text) {
  const positions = new Uint32Array(text.length + 1);
  let byte = 0;
  for (let i = 0; i < text.length; i++) {
    positions[i] = byte;
    const point = text.codePointAt(i);
    if (point >= 0x10000) positions[++i] = byte; // the second half of a pair
    byte += point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
  }
  positions[text.length] = byte;
  return positions;
}
