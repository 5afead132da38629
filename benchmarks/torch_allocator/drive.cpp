// Asks torch's caching allocator what it is told on stdin, and says what it did. See record.py.
//
//     a BYTES STREAM    ask for memory        f NUMBER    free what request NUMBER got        e    empty the cache
//
// One line each: the address (-1: refused), then allocated, reserved, num_ooms and num_alloc_retries after it.
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/PeerToPeerAccess.h>

#include <cstdlib>
#include <iostream>
#include <map>

using namespace c10::cuda;

static long ask(CUDACachingAllocator::CUDAAllocator* allocator, size_t size, long stream) {
  try {
    return (long)allocator->raw_alloc_with_stream(size, (cudaStream_t)stream);
  } catch (const c10::OutOfMemoryError& error) {
    std::cerr << error.what_without_backtrace() << '\n';
    return -1;
  }
}

int main() {
  detail::init_p2p_access_cache(1);
  CUDACachingAllocator::init(1);
  auto* allocator = CUDACachingAllocator::get();
  if (const char* fraction = getenv("FRACTION")) allocator->setMemoryFraction(atof(fraction), 0);
  std::map<long, long> live;
  long requests = 0, number;
  for (char action; std::cin >> action;) {
    long address = 0;
    if (action == 'a') {
      size_t size;
      long stream;
      std::cin >> size >> stream;
      address = ask(allocator, size, stream);
      if (address > 0) live[requests] = address;
      requests++;
    } else if (action == 'e') {
      allocator->emptyCache({0, 0});
    } else if (std::cin >> number; live.count(number)) {
      allocator->raw_delete((void*)live[number]);
      live.erase(number);
    }
    auto stats = allocator->getDeviceStats(0);
    std::cout << address << ' ' << stats.allocated_bytes[0].current << ' ' << stats.reserved_bytes[0].current << ' '
              << stats.num_ooms << ' ' << stats.num_alloc_retries << '\n';
  }
}
