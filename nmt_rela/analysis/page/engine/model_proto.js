// The protocol buffer of a SentencePiece model: what encoding and decoding need of it.

/** The fields of a message as [number, value]: numbers, Float32 bits as numbers, or bytes. */
function* protoFields(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint(), number = Math.floor(key / 8), wire = key % 8;
    if (wire === 0) yield [number, varint()];
    else if (wire === 5) yield [number, view.getFloat32((at += 4) - 4, true)];
    else if (wire === 1) yield [number, view.getFloat64((at += 8) - 8, true)];
    else {
      const length = varint();
      yield [number, bytes.subarray(at, (at += length))];
    }
  }
}

const decodeUtf8 = (bytes) => new TextDecoder("utf-8", {ignoreBOM: true}).decode(bytes);
const encodeUtf8 = (text) => new TextEncoder().encode(text);

const PIECE_TYPES = ["", "normal", "unknown", "control", "user_defined", "unused", "byte"];
const MODEL_TYPES = ["", "unigram", "bpe", "word", "char"];

function parseModelProto(bytes) {
  const model = {pieces: [], type: "unigram", byteFallback: false, unkSurface: " \u2047 ", spaceAsSuffix: false};
  Object.assign(model, {charsmap: null, addDummyPrefix: true, removeExtraWhitespaces: true, escapeWhitespaces: true});
  for (const [number, value] of protoFields(bytes)) {
    if (number === 1) {
      const piece = {text: "", score: 0, type: "normal"};
      for (const [part, found] of protoFields(value)) {
        if (part === 1) piece.text = decodeUtf8(found);
        else if (part === 2) piece.score = found;
        else if (part === 3) piece.type = PIECE_TYPES[found];
      }
      model.pieces.push(piece);
    } else if (number === 2) {
      for (const [part, found] of protoFields(value)) {
        if (part === 3) model.type = MODEL_TYPES[found];
        else if (part === 24) model.spaceAsSuffix = found !== 0;
        else if (part === 35) model.byteFallback = found !== 0;
        else if (part === 44) model.unkSurface = decodeUtf8(found);
      }
    } else if (number === 3) {
      for (const [part, found] of protoFields(value)) {
        if (part === 2 && found.length) model.charsmap = found;
        else if (part === 3) model.addDummyPrefix = found !== 0;
        else if (part === 4) model.removeExtraWhitespaces = found !== 0;
        else if (part === 5) model.escapeWhitespaces = found !== 0;
      }
    }
  }
  return model;
}
