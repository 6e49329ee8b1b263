// Repair of given text, as nmt_rela/data/normalization.py does it to all text that a model reads.

const SPACES = /[\t\xa0\u1680\u2000-\u200a\u202f\u205f]/g;
const COMBINING = /[\u0300-\u036f\u1100-\u11ff\u3099\u309a]/;
const INVISIBLE = /[\xad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]+/g;
const JOINERS = /[\u200c\u200d]+/g;
const AMPERSAND = /&(?:(?:amp|#0{0,5}38|#x0{0,4}26);)+/gi;
const ENTITY = /&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});/g;
const SEPARATORS = /[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+/g;
const CONTROLS = /[\x00-\x08\x0a\x0d-\x1b\x1f\x7f-\x84\x86-\x9f]+/g;
const ROMANIAN = {
  none: {},
  cedilla: {Ş: "Ș", ş: "ș", Ţ: "Ț", ţ: "ț"},
  remove: {Ş: "S", ş: "s", Ţ: "T", ţ: "t", Ș: "S", ș: "s", Ț: "T", ț: "t", Ă: "A", ă: "a", Â: "A", â: "a", Î: "I", î: "i"},
};

/** What an entity stands for, by the browser's own table, and by Python's rules for numbers that no text contains. */
function resolveEntity(entity) {
  const digits = entity.match(/^&#([xX]?)([0-9a-fA-F]+);$/);
  if (digits) {
    const point = Number.parseInt(digits[2], digits[1] ? 16 : 10), isFinal = (point & 0xfffe) === 0xfffe;
    if (point > 0 && point < 0x20 && ![9, 10, 12, 13].includes(point)) return "";
    if (point === 0x7f || (point >= 0xfdd0 && point <= 0xfdef) || (isFinal && point <= 0x10ffff)) return "";
  }
  return new DOMParser().parseFromString(`<!doctype html><body>.${entity}`, "text/html").body.textContent.slice(1);
}

function repairText(text) {
  const compose = (given) => (COMBINING.test(given) ? given.normalize("NFC") : given);
  for (;;) {
    const before = text;
    text = compose(text.replace(SPACES, " ")).replace(INVISIBLE, "");
    text = text.replace(AMPERSAND, "&").replace(ENTITY, resolveEntity);
    text = text.replace(SEPARATORS, " ").replace(CONTROLS, " ");
    if (text === before) return text;
  }
}

/** `rules` are those of one language: {keeps_joiners, romanian_diacritics}. */
function normalizeText(given, {keeps_joiners, romanian_diacritics}) {
  const repaired = repairText(given.toWellFormed?.() ?? given.replace(/\p{Surrogate}/gu, "\ufffd"));
  const text = keeps_joiners ? repaired : repaired.replace(JOINERS, ""), letters = ROMANIAN[romanian_diacritics];
  if (romanian_diacritics === "none") return text;
  return [...(COMBINING.test(text) ? text.normalize("NFC") : text)].map((letter) => letters[letter] ?? letter).join("");
}
