// Greedy and beam search on logits. As nmt_rela/generation/beam_search.py, for one sentence.

const SUPPRESSED_TOKENS = [PAD, UNK, BOS];

/** ((5 + length) / 6)^exponent; length counts EOS. */
const lengthPenaltyFactor = (length, exponent) => ((5 + length) / 6) ** exponent;

/** The log-probabilities of the next token, −∞ for tokens that may not come. */
function nextLogProbs(logits, step, minLength) {
  const found = logSoftmax(logits);
  for (const token of SUPPRESSED_TOKENS) found[token] = -Infinity;
  if (step < Math.max(1, minLength)) found[EOS] = -Infinity;
  return found;
}

/** The `count` best continuations of hypotheses with these log-probabilities; among equals the better beam, then the smaller token. */
function topCandidates(scores, logProbs, count) {
  let found = [];
  scores.forEach((score, beam) => {
    let least = found.length < count ? -Infinity : found[count - 1].total;
    const values = logProbs[beam];
    for (let token = 0; token < values.length; token++) {
      const total = Math.fround(score + values[token]);
      if (!(total > least)) continue;
      found.push({total, beam, token, logProb: values[token]});
      if (found.length >= 4 * count) {
        found = found.sort((a, b) => b.total - a.total).slice(0, count);
        least = found[count - 1].total;
      }
    }
    found = found.sort((a, b) => b.total - a.total).slice(0, count);
  });
  return found;
}

/**
 * The hypotheses of highest score, best first: {tokens, logProbs, logProbability, score}.
 * `options`: maxLength, minLength, lengthPenalty, beamSize, earlyStopping. `pause(step)` is awaited before each step
 * and ends the search, which then returns null, with a true value.
 */
async function beamSearch(decoder, options, pause = async () => false) {
  const {maxLength, minLength = 0, lengthPenalty, beamSize, earlyStopping = false} = options;
  const hypothesis = ({tokens, logProbs, total}) => ({tokens, logProbs, logProbability: total, score: total / lengthPenaltyFactor(tokens.length, lengthPenalty)});
  const finalPenalty = lengthPenaltyFactor(maxLength, lengthPenalty);
  let beams = [{tokens: [], logProbs: [], total: 0}], finished = [];
  for (let step = 0; step < maxLength; step++) {
    if (await pause(step)) return null;
    const logits = decoder.step(beams.map(({tokens}) => tokens.at(-1) ?? BOS));
    const logProbs = logits.map((values) => nextLogProbs(values, step, minLength));
    const candidates = topCandidates(beams.map(({total}) => total), logProbs, beamSize === 1 ? 1 : 2 * beamSize).map(({total, beam, token, logProb}) =>
      ({total, beam, ended: token === EOS || step + 1 >= maxLength, tokens: [...beams[beam].tokens, token], logProbs: [...beams[beam].logProbs, logProb]}));
    // Candidates that ended join the pool; with early stopping only the best of a step, and only while it is not full.
    const isFull = finished.length === beamSize;
    const joining = candidates.filter(({ended}, i) => ended && (!earlyStopping || (i < beamSize && !isFull)));
    finished = [...finished, ...joining.map(hypothesis)].sort((a, b) => b.score - a.score).slice(0, beamSize);
    const continuing = candidates.filter(({ended}) => !ended).slice(0, beamSize);
    if (!continuing.length || (finished.length === beamSize && (earlyStopping || finished[beamSize - 1].score >= continuing[0].total / finalPenalty))) break;
    decoder.reorder(continuing.map(({beam}) => beam));
    beams = continuing;
  }
  return finished;
}
