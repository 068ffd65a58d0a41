// Tokens with their probabilities, and how they are shown.
//
// token: {t: text, lp: log-probability in nats or null, top: [[text, lp, bytes?], …], b: bytes where the text alone is not whole characters}

const decoder = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();

export const probability = (lp) => (lp === null || lp === undefined ? null : Math.min(1, Math.exp(lp)));

/** Five steps, 0 (certain) to 4 (surprising); the style sheet gives each a tint and an underline of its own. */
export function level(lp) {
  const p = probability(lp);
  if (p === null) return null;
  return p >= 0.9 ? 0 : p >= 0.6 ? 1 : p >= 0.3 ? 2 : p >= 0.1 ? 3 : 4;
}

export function percent(lp) {
  const p = probability(lp);
  if (p === null) return "–";
  if (p > 0.9995) return "100 %";
  if (p < 0.0001) return "<0.01 %";
  return `${(p * 100).toFixed(p < 0.01 ? 2 : p < 0.1 ? 1 : 0)} %`;
}

const SPECIAL = /^(<[|｜][^<>]*[|｜]>|<\/?s>|<(eos|bos|pad|unk|end_of_turn|start_of_turn|endoftext)>|\[(EOS|BOS|PAD|UNK)\])$/;
/** A token that is a sign to the machine, not text: continuing after it would make no sense. */
export const isSpecial = (text) => SPECIAL.test(text);

const MARKS = { "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u3000": "□" };
// Controls, zero-width and direction marks, variation selectors, tags, private use: what a reader can't see but a model can say.
const HIDDEN =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e0fff}\ue000-\uf8ff]/u;

export const codePoint = (char) => `U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
export const hex = (bytes) => bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");

/** Pieces to show: [{text, kind: "text" | "mark" | "hidden"}]. `spaces`: every space gets a mark, not only those that stand
 * alone. `breaks`: a line break also breaks the line. `bytes`, `whole`: see `partialBytes` and `wholes`. */
export function visible(text, { bytes = null, whole = null, spaces = false, breaks = true } = {}) {
  if (bytes) return [{ text: hex(bytes), kind: "hidden" }, ...(whole ? [{ text: whole, kind: "text" }] : [])];
  if (text === "") return [{ text: "∅", kind: "hidden" }];
  const markSpaces = spaces || /^\s+$/.test(text);
  const pieces = [];
  for (const char of text) {
    if (char === " " && markSpaces) pieces.push({ text: "·", kind: "mark" });
    else if (MARKS[char]) pieces.push({ text: MARKS[char], kind: "mark" }, ...(char === "\n" && breaks ? [{ text: "\n", kind: "text" }] : []));
    else if (HIDDEN.test(char)) pieces.push({ text: codePoint(char), kind: "hidden" });
    else if (pieces.at(-1)?.kind === "text") pieces.at(-1).text += char;
    else pieces.push({ text: char, kind: "text" });
  }
  return pieces;
}

export const plain = (text, bytes) => visible(text, { bytes, spaces: true, breaks: false }).map((piece) => piece.text).join("");

/** The bytes of a token that is no text by itself, else undefined. `bytes`: as the server gives them, if it does. */
export function partialBytes(text, bytes) {
  if (bytes) {
    try {
      decoder.decode(Uint8Array.from(bytes));
      return undefined;
    } catch {
      return bytes;
    }
  }
  // OpenAI's way to write such a token where there is no field for bytes
  const written = /^bytes:((?:\\x[0-9a-f]{2})+)$/.exec(text)?.[1];
  return written?.match(/[0-9a-f]{2}/g).map((digits) => Number.parseInt(digits, 16));
}

/** For each token, the characters that it completes with the partial ones before it, or null. partial: [bytes or undefined] */
export function wholes(partial) {
  let open = [];
  return partial.map((bytes) => {
    open = bytes ? [...open.slice(-8), ...bytes] : [];
    try {
      const text = open.length ? decoder.decode(Uint8Array.from(open)) : null;
      if (text) open = [];
      return text;
    } catch {
      return null;
    }
  });
}

/** Text of tokens 0…i−1 and then `alternative`; null where that would end within a character. */
export function prefixText(tokens, i, [text, , bytes]) {
  const parts = [...tokens.slice(0, i).map(({ t, b }) => b ?? encoder.encode(t)), bytes ?? encoder.encode(text)];
  const whole = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  try {
    return decoder.decode(whole);
  } catch {
    return null;
  }
}

/** Over the generated tokens. `entropyBits` counts what lies outside the known alternatives as one lump: a lower bound. */
export function summary(tokens) {
  const scored = tokens.filter((token) => token.lp !== null && token.lp !== undefined);
  if (!scored.length) return null;
  const mean = scored.reduce((sum, token) => sum + token.lp, 0) / scored.length;
  const withTop = scored.filter((token) => token.top?.length);
  const entropy = withTop.reduce((sum, token) => sum + entropyBits(token), 0) / (withTop.length || 1);
  return { n: scored.length, typical: Math.exp(mean), perplexity: Math.exp(-mean), entropyBits: withTop.length ? entropy : null };
}

function entropyBits(token) {
  const known = new Map(token.top.map(([text, lp]) => [text, Math.exp(lp)]));
  if (!known.has(token.t)) known.set(token.t, Math.exp(token.lp));
  let rest = 1;
  let bits = 0;
  for (const p of known.values()) {
    rest -= p;
    if (p > 0) bits -= p * Math.log2(p);
  }
  return rest > 1e-6 ? bits - rest * Math.log2(rest) : bits;
}
