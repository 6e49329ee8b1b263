// The functions that Python calls (native_library.py lists their arguments). Each returns why it failed, or null: an
// exception must not leave C++.

#include <new>
#include <stdexcept>

#include "beam_step.h"
#include "transformer.h"

template <class Function>
const char* guard(Function function) {
    try {
        function();
        return nullptr;
    } catch (const std::out_of_range&) {
        return "a token is not in the vocabulary";
    } catch (...) {  // std::bad_alloc, or std::length_error of a vector
        return "out of memory";
    }
}

extern "C" {

const char* new_model(const Config* config, const float* const* arrays, Model** made) {
    return guard([=] { *made = new Model(*config, arrays); });
}
const char* new_state(const Model* model, const int64_t* source, int sentences, int width, int64_t pad_id,
                      const float* positions, State** made) {
    return guard([=] { *made = new State(*model, source, sentences, width, pad_id, positions); });
}
const char* step(State* state, const int64_t* tokens, int beams, const float* position, float* logits) {
    return guard([=] { state->step(tokens, beams, position, logits); });
}
const char* reorder(State* state, const int64_t* parents, int beams) {
    return guard([=] { state->reorder(parents, beams); });
}
const char* select_sentences(State* state, const int64_t* kept, int count) {
    return guard([=] { state->select(kept, count); });
}
const char* beam_step(BeamStep* step) {
    return guard([=] { step->run(); });
}
void free_model(Model* model) { delete model; }
void free_state(State* state) { delete state; }

}
