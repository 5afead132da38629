// The host's generator (mt19937 of ATen/core/MT19937RNGEngine.h) after so many draws that nobody looks at: a block of
// 624 words is made from the one before without its outputs, some ten times faster than drawing. Many blocks are jumped
// over (H. Haramoto et al., "Efficient jump ahead for F2-linear random number generators", INFORMS J. Comput. 20, 2008):
// the state after n words is x^n, modulo the generator's characteristic polynomial, of its step.

#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

namespace {

constexpr int words = 624, middle = 397, degree = 19937, limbs = 312;
constexpr uint64_t many = 1 << 13;  // blocks that take longer than a jump does

// The beginning of a CPU generator's state (CPUGeneratorImplStateLegacy of ATen/CPUGeneratorImpl.cpp).
struct State {
  uint64_t seed;
  int32_t left, seeded;
  uint64_t next;
  uint64_t state[words];
};

// The word that comes 624 after the first of these.
inline uint32_t follows(const uint32_t* s) {
  uint32_t both = (s[0] & 0x80000000u) | (s[1] & 0x7fffffffu);
  return s[middle] ^ (both >> 1) ^ (-(s[1] & 1u) & 0x9908b0dfu);
}

inline void step(uint32_t* s, int here, int after, int far) {
  uint32_t both = (s[here] & 0x80000000u) | (s[after] & 0x7fffffffu);
  s[here] = s[far] ^ (both >> 1) ^ (-(s[after] & 1u) & 0x9908b0dfu);
}

void next_block(uint32_t* s) {
  for (int i = 0; i < words - middle; ++i) step(s, i, i + 1, i + middle);
  for (int i = words - middle; i < words - 1; ++i) step(s, i, i + 1, i + middle - words);
  step(s, words - 1, 0, middle - 1);
}

// A polynomial over two elements, of a degree below 19,968; bit i is the coefficient of x^i.
struct Polynomial {
  uint64_t limb[limbs] = {};

  bool has(int bit) const { return limb[bit / 64] >> (bit % 64) & 1; }
  void flip(int bit) { limb[bit / 64] ^= 1ull << (bit % 64); }
  void add(const Polynomial& other) {
    for (int i = 0; i < limbs; ++i) limb[i] ^= other.limb[i];
  }
  void times_x() {
    for (int i = limbs - 1; i > 0; --i) limb[i] = limb[i] << 1 | limb[i - 1] >> 63;
    limb[0] <<= 1;
  }
};

// The characteristic polynomial, by Berlekamp and Massey's algorithm of the lowest bits of words that the generator
// makes: it is irreducible, and so that of any such sequence.
Polynomial characteristic() {
  uint32_t block[words];
  block[0] = 5489;
  for (int i = 1; i < words; ++i) block[i] = 1812433253u * (block[i - 1] ^ block[i - 1] >> 30) + i;
  Polynomial found, before, seen;  // `seen` has the bits so far, the newest first
  found.flip(0), before.flip(0);
  int length = 0;
  for (int n = 0; n < 2 * degree; ++n) {
    if (n % words == 0) next_block(block);
    seen.times_x();
    if (block[n % words] & 1) seen.flip(0);
    before.times_x();
    uint64_t odd = 0;
    for (int i = 0; i < limbs; ++i) odd ^= found.limb[i] & seen.limb[i];
    if (std::popcount(odd) % 2 == 0) continue;
    Polynomial kept = found;
    found.add(before);
    if (2 * length <= n) length = n + 1 - length, before = kept;
  }
  Polynomial reversed;
  for (int i = 0; i <= degree; ++i)
    if (found.has(i)) reversed.flip(degree - i);
  return reversed;
}

// x^n modulo the characteristic polynomial.
class Powers {
 public:
  Powers() {
    shifted_[0] = characteristic();  // of degree 19,937 = 64 * 311 + 33: there is room for thirty of them
    for (int i = 1; i < 64; ++i) {
      std::memcpy(shifted_[i].limb, shifted_[i - 1].limb, sizeof shifted_[i].limb);
      top_[i] = top_[i - 1] << 1 | shifted_[i].limb[limbs - 1] >> 63;
      shifted_[i].times_x();
    }
  }

  Polynomial power(uint64_t n) const {
    Polynomial made;
    made.flip(0);
    for (int bit = 63 - std::countl_zero(n); bit >= 0; --bit) {
      made = square(made);
      if (n >> bit & 1) {
        made.times_x();
        if (made.has(degree)) made.add(shifted_[0]);
      }
    }
    return made;
  }

 private:
  Polynomial square(const Polynomial& one) const {
    uint64_t wide[2 * limbs + 1] = {};
    for (int i = 0; i < limbs; ++i) {
      wide[2 * i] = spread(static_cast<uint32_t>(one.limb[i]));
      wide[2 * i + 1] = spread(static_cast<uint32_t>(one.limb[i] >> 32));
    }
    for (int bit = 2 * degree - 2; bit >= degree; --bit) {
      if (!(wide[bit / 64] >> (bit % 64) & 1)) continue;
      int limb = (bit - degree) / 64, shift = (bit - degree) % 64;
      for (int i = 0; i < limbs; ++i) wide[limb + i] ^= shifted_[shift].limb[i];
      wide[limb + limbs] ^= top_[shift];
    }
    Polynomial made;
    std::memcpy(made.limb, wide, sizeof made.limb);
    return made;
  }

  // Its bits with zeros between them: the square, for 1 + 1 is 0.
  static uint64_t spread(uint64_t x) {
    x = (x | x << 16) & 0x0000ffff0000ffffull;
    x = (x | x << 8) & 0x00ff00ff00ff00ffull;
    x = (x | x << 4) & 0x0f0f0f0f0f0f0f0full;
    x = (x | x << 2) & 0x3333333333333333ull;
    return (x | x << 1) & 0x5555555555555555ull;
  }

  Polynomial shifted_[64];
  uint64_t top_[64] = {};
};

const Polynomial& jump_of(uint64_t n) {
  static std::mutex mutex;
  static const Powers powers;
  static std::map<uint64_t, Polynomial> known;
  std::lock_guard<std::mutex> lock(mutex);
  auto [place, is_new] = known.try_emplace(n);
  if (is_new) place->second = powers.power(n);
  return place->second;
}

// So many blocks on. Of the first word of a state one bit alone decides over what follows: so the state is asked for that
// is a word before, and makes one more.
void jump(uint32_t* block, uint64_t blocks) {
  const Polynomial& by = jump_of(blocks * words - 1);
  std::vector<uint32_t> line(words + degree + 1);
  uint32_t* s = line.data();
  for (int bit = degree - 1; bit >= 0; --bit) {
    s[words] = follows(s);
    ++s;
    if (by.has(bit))
      for (int i = 0; i < words; ++i) s[i] ^= block[i];
  }
  s[words] = follows(s);
  std::memcpy(block, s + 1, words * sizeof *block);
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
    if (blocks >= many)
      jump(block, blocks);
    else
      for (uint64_t made = 0; made < blocks; ++made) next_block(block);
    for (int i = 0; i < words; ++i) state.state[i] = block[i];
    state.next = rest - words * (blocks - 1);
    state.left = words + 1 - state.next;
  }
  std::memcpy(bytes, &state, sizeof state);
}
