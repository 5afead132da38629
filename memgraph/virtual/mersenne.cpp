// The host's generator (mt19937 of ATen/core/MT19937RNGEngine.h) after so many draws that nobody looks at: a block of
// 624 words is made from the one before without its outputs, some ten times faster than drawing.

#include <cstdint>
#include <cstring>

namespace {

constexpr int words = 624, middle = 397;

// The beginning of a CPU generator's state (CPUGeneratorImplStateLegacy of ATen/CPUGeneratorImpl.cpp).
struct State {
  uint64_t seed;
  int32_t left, seeded;
  uint64_t next;
  uint64_t state[words];
};

inline void step(uint32_t* s, int here, int after, int far) {
  uint32_t both = (s[here] & 0x80000000u) | (s[after] & 0x7fffffffu);
  s[here] = s[far] ^ (both >> 1) ^ (-(s[after] & 1u) & 0x9908b0dfu);
}

void next_block(uint32_t* s) {
  for (int i = 0; i < words - middle; ++i) step(s, i, i + 1, i + middle);
  for (int i = words - middle; i < words - 1; ++i) step(s, i, i + 1, i + middle - words);
  step(s, words - 1, 0, middle - 1);
}

}  // namespace

// The word that is drawn next is `next`; before it is, `left` falls by one, and at 0 a new block is made.
extern "C" void memgraph_advance(void* bytes, uint64_t draws) {
  State state;
  std::memcpy(&state, bytes, sizeof state);
  uint64_t here = state.left - 1;
  if (draws <= here) {
    state.left -= draws;
    state.next += draws;
  } else {
    uint32_t block[words];
    for (int i = 0; i < words; ++i) block[i] = state.state[i];
    uint64_t rest = draws - here, blocks = (rest + words - 1) / words;
    for (uint64_t made = 0; made < blocks; ++made) next_block(block);
    for (int i = 0; i < words; ++i) state.state[i] = block[i];
    state.next = rest - words * (blocks - 1);
    state.left = words + 1 - state.next;
  }
  std::memcpy(bytes, &state, sizeof state);
}
