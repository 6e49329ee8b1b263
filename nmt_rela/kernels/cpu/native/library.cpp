// The functions that Python calls (native_library.py lists their arguments).

#include "beam_step.h"
#include "transformer.h"

extern "C" {

void* new_model(const Config* config, const float* const* arrays) { return new Model(*config, arrays); }
void free_model(Model* model) { delete model; }
void* new_state(const Model* model, const int64_t* source, int sentences, int width, int64_t pad_id,
                const float* positions) {
    return new State(*model, source, sentences, width, pad_id, positions);
}
void free_state(State* state) { delete state; }
void step(State* state, const int64_t* tokens, int beams, const float* position, float* logits) {
    state->step(tokens, beams, position, logits);
}
void reorder(State* state, const int64_t* parents, int beams) { state->reorder(parents, beams); }
void select_sentences(State* state, const int64_t* kept, int count) { state->select(kept, count); }
void beam_step(BeamStep* step) { step->run(); }

}
