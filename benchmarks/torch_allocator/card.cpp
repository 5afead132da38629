// A CUDA card that only counts: what torch's own caching allocator (libc10_cuda.so) asks of the CUDA runtime and driver,
// answered without a GPU. Preloaded before libcudart; the card has CAPACITY bytes. See record.py.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

using Address = unsigned long long;

// Segments go downwards in slots of 32 MiB, those of 2 MiB fill a slot: memgraph.gpu.allocator.segments.DownwardSlots.
constexpr Address MIB = 1 << 20, SLOT = 32 * MIB;
static Address bottom = 0x7F0000000000, small = 0, small_end = 0, used = 0;
static std::map<Address, Address> live;
static cudaError_t last = cudaSuccess;

static Address capacity() {
  static Address bytes = strtoull(getenv("CAPACITY"), nullptr, 10);
  return bytes;
}
static Address take(Address size) {
  bottom -= (size + SLOT - 1) / SLOT * SLOT;
  return bottom;
}
static Address place(Address size) {
  if (size > 2 * MIB) return take(size);
  if (small + size > small_end) {
    small = take(SLOT);
    small_end = small + SLOT;
  }
  small += size;
  return small - size;
}

extern "C" {
cudaError_t cudaMalloc(void** pointer, size_t size) {
  if (used + size > capacity()) return last = cudaErrorMemoryAllocation;
  Address address = place(size);
  used += live[address] = size;
  *pointer = (void*)address;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  used -= live[(Address)pointer];
  live.erase((Address)pointer);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = capacity() - used;
  *total = capacity();
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  cudaError_t error = last;
  last = cudaSuccess;
  return error;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  memset(properties, 0, sizeof *properties);
  properties->totalGlobalMem = capacity();
  properties->major = 9;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  static Address next = 100;
  *stream = (cudaStream_t)next++;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13020, cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* most) { return *least = 0, *most = -1, cudaSuccess; }
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) { return *pool = (cudaMemPool_t)1, cudaSuccess; }

// What expandable segments ask of the driver.
static CUresult reserve(CUdeviceptr* address, size_t size, size_t, CUdeviceptr, Address) {
  return *address = take(size), CUDA_SUCCESS;
}
static CUresult create(CUmemGenericAllocationHandle* handle, size_t size, const CUmemAllocationProp*, Address) {
  static Address next = 1;
  if (used + size > capacity()) return CUDA_ERROR_OUT_OF_MEMORY;
  used += live[next] = size;
  return *handle = next++, CUDA_SUCCESS;
}
static CUresult release(CUmemGenericAllocationHandle handle) {
  used -= live[handle];
  live.erase(handle);
  return CUDA_SUCCESS;
}
static CUresult granularity(size_t* size, const CUmemAllocationProp*, int) { return *size = 2 * MIB, CUDA_SUCCESS; }
static CUresult attribute(int* value, CUdevice_attribute, CUdevice) { return *value = 0, CUDA_SUCCESS; }
static CUresult context(CUcontext* current) { return *current = (CUcontext)1, CUDA_SUCCESS; }
static CUresult describe(CUresult, const char** text) { return *text = "refused", CUDA_SUCCESS; }
static CUresult nothing() { return CUDA_SUCCESS; }

cudaError_t cudaGetDriverEntryPointByVersion(
    const char* name, void** function, unsigned, Address, cudaDriverEntryPointQueryResult* result) {
  static const std::map<std::string, void*> known = {
      {"cuMemAddressReserve", (void*)reserve}, {"cuMemCreate", (void*)create},
      {"cuMemRelease", (void*)release},        {"cuMemGetAllocationGranularity", (void*)granularity},
      {"cuDeviceGetAttribute", (void*)attribute}, {"cuCtxGetCurrent", (void*)context},
      {"cuGetErrorString", (void*)describe},
  };
  auto found = known.find(name);
  *function = found == known.end() ? (void*)nothing : found->second;
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
}
