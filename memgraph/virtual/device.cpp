// The part of a CUDA device that PyTorch's C++ asks for although no kernel ever runs: a device guard, and CUDA hooks that
// say that devices are there. Fake tensors do the rest.
//
// Written for torch 2.11 to 2.15, CPU-only builds and CUDA builds without a visible GPU. It must not be loaded where a real
// GPU is visible. Everything is undone by memgraph_uninstall, but for a guard that counts no device (see `LeftGuard`) and
// `time_no_buckets`.

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Registry.h>

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace c10d {

// As declared in torch/csrc/distributed/c10d/reducer_timer.hpp, whose other headers take ten times longer to compile than
// this file. None is ever made here.
class Timer {
 public:
  virtual ~Timer();
};

} // namespace c10d

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

// The stream that is current in this thread, by its number; 0 is the default one. CUDA keeps it per thread too
// (c10/cuda/CUDAStream.cpp, `current_streams`), so that autograd's threads and Python's see the same.
thread_local int64_t current_stream = 0;

// Who hears what C++ does with streams: autograd's engine, `torch.Stream` and `torch.Event`. All null: nobody.
struct Listeners {
  int64_t (*create)(int64_t priority); // a stream from the pool of a priority: its number
  int64_t (*record)(int64_t event, int64_t stream); // event 0: a new one; its number
  void (*wait)(int64_t event, int64_t stream);
  void (*synchronize)(int64_t event, int64_t stream); // event 0: a stream; both -1: the device
  void (*forget)(int64_t event);
  void (*use)(int64_t storage, int64_t stream); // a storage, by its `_cdata`, is used on another stream
};

Listeners listeners = {};

int64_t number_of(void* event) {
  return reinterpret_cast<int64_t>(event);
}

// How far into a StorageImpl its DataPtr is.
int64_t data_ptr_offset() {
  const c10::StorageImpl storage(c10::StorageImpl::use_byte_size_t(), 0, c10::DataPtr(), nullptr, false);
  return reinterpret_cast<const char*>(&storage.data_ptr()) - reinterpret_cast<const char*>(&storage);
}

using Timers = c10::Registry<DeviceType, std::unique_ptr<c10d::Timer>, Device>;

// DistributedDataParallel of a CUDA build times its steps by CUDA's events, which there are none of without a GPU
// (torch/csrc/distributed/c10d/reducer_cuda.cpp). It goes without a timer where none is made, as on a CPU-only build. This
// stays for the process: nothing takes a registered maker away, and a process without a GPU has no use for it.
void time_no_buckets() {
  auto* timers = reinterpret_cast<Timers* (*)()>(dlsym(RTLD_DEFAULT, "_ZN4c10d13TimerRegistryEv"));
  static bool done = false;
  if (timers && !done) {
    done = true;
    timers()->Register(
        DeviceType::CUDA, [](Device) { return std::unique_ptr<c10d::Timer>(); }, c10::REGISTRY_PREFERRED);
  }
}

// Autograd's engine makes a thread for each device, once in a process: as many as a node of a world may have.
constexpr DeviceIndex kDevices = 16;

// The device that is current in this thread, as CUDA keeps it, and how many a script may count.
thread_local DeviceIndex current_index = 0;
DeviceIndex visible_devices = 1;

// Without a number the device is the current one (c10/cuda/CUDAStream.cpp).
Stream stream_of(int64_t number, Device device) {
  return Stream(Stream::UNSAFE, Device(device.type(), device.has_index() ? device.index() : current_index), number);
}

// Nothing takes time.
struct VirtualGuard : public c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device next) const override {
    const Device before = getDevice();
    setDevice(next);
    return before;
  }
  Device getDevice() const override { return Device(DeviceType::CUDA, current_index); }
  void setDevice(Device next) const override { current_index = next.index() < 0 ? 0 : next.index(); }
  void uncheckedSetDevice(Device next) const noexcept override { setDevice(next); }
  Stream getStream(Device device) const override { return stream_of(current_stream, device); }
  Stream getDefaultStream(Device device) const override { return stream_of(0, device); }
  Stream getStreamFromGlobalPool(Device device, bool high) const override { return getNewStream(device, high ? -3 : 0); }
  Stream getNewStream(Device device, int priority) const override {
    return stream_of(listeners.create ? listeners.create(priority) : 0, device);
  }
  Stream exchangeStream(Stream next) const override {
    const Stream before = stream_of(current_stream, next.device());
    current_stream = next.id();
    return before;
  }
  DeviceIndex deviceCount() const noexcept override { return kDevices; }
  void record(void** event, const Stream& stream, const DeviceIndex, const c10::EventFlag) const override {
    if (listeners.record) {
      *event = reinterpret_cast<void*>(listeners.record(number_of(*event), stream.id()));
    }
  }
  void block(void* event, const Stream& stream) const override {
    if (listeners.wait && event) {
      listeners.wait(number_of(event), stream.id());
    }
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override {
    if (listeners.forget && event) {
      listeners.forget(number_of(event));
    }
  }
  bool queryEvent(void* event) const override {
    synchronizeEvent(event);
    return true;
  }
  bool queryStream(const Stream& stream) const override {
    synchronizeStream(stream);
    return true;
  }
  void synchronizeStream(const Stream& stream) const override { synchronize(0, stream.id()); }
  void synchronizeEvent(void* event) const override {
    if (event) {
      synchronize(number_of(event), 0);
    }
  }
  void synchronizeDevice(const DeviceIndex) const override { synchronize(-1, -1); }
  void recordDataPtrOnStream(const c10::DataPtr& data, const Stream& stream) const override {
    static const int64_t offset = data_ptr_offset();
    if (listeners.use) {
      listeners.use(reinterpret_cast<int64_t>(&data) - offset, stream.id());
    }
  }
  double elapsedTime(void*, void*, const DeviceIndex) const override { return 1.0; }

  static void synchronize(int64_t event, int64_t stream) {
    if (listeners.synchronize) {
      listeners.synchronize(event, stream);
    }
  }
};

// What stays when the device goes. Tensors of it may live on, and autograd asks for their stream where an exception ends the
// process (the constructor of InputMetadata, torch/csrc/autograd/input_metadata.cpp): without a guard, or with that of a CUDA
// build without a GPU, a forgotten line after the block would abort. No device is counted, so nothing new can be made on it.
struct LeftGuard final : public VirtualGuard {
  DeviceIndex deviceCount() const noexcept override { return 0; }
  Stream getStream(Device) const override { return getDefaultStream(getDevice()); }
  Stream getStreamFromGlobalPool(Device, bool) const override { return gone(); }
  Stream getNewStream(Device, int) const override { return gone(); }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override { gone(); }
  void synchronizeDevice(const DeviceIndex) const override { gone(); }

 private:
  static Stream gone() { TORCH_CHECK(false, "there is no CUDA device: memgraph's virtual GPU is closed"); }
};

// The answers for the devices that a script may count. Called through a patched vtable, so `this` is torch's own hooks
// object and is not used.
struct VirtualHooks final : public at::CUDAHooksInterface {
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return visible_devices; }
  DeviceIndex deviceCount() const override { return visible_devices; }
  DeviceIndex current_device() const override { return current_index; }
  DeviceIndex getCurrentDevice() const override { return current_index; }
  void deviceSynchronize(DeviceIndex) const override {}
  bool isPinnedPtr(const void*) const override { return false; }
};

// One virtual more than the interface has: its slot is the number of slots to copy.
struct PastTheEnd : public at::CUDAHooksInterface {
  virtual void past_the_end() {}
};

using Slot = void*;
constexpr size_t kHeader = 2; // Itanium C++ ABI: offset-to-top and type_info stand before the first slot.

// Itanium C++ ABI 2.3: a pointer to a virtual member function holds 1 + its offset in the vtable.
template <typename Method>
size_t slot_of(Method method) {
  ptrdiff_t word;
  std::memcpy(&word, &method, sizeof word);
  return static_cast<size_t>(word - 1) / sizeof(Slot);
}

Slot*& vtable_of(const void* object) {
  return *reinterpret_cast<Slot**>(const_cast<void*>(object));
}

struct Installed {
  Slot* vtable = nullptr;
  bool active = false;
};

Installed previous;

std::vector<Slot>* answering_vtable(Slot* original) {
  static const VirtualHooks hooks;
  const Slot* answers = vtable_of(&hooks);
  const size_t size = slot_of(&PastTheEnd::past_the_end);
  auto* table = new std::vector<Slot>(original - kHeader, original + size);
  const size_t answered[] = {
      slot_of(&at::CUDAHooksInterface::init),
      slot_of(&at::CUDAHooksInterface::isBuilt),
      slot_of(&at::CUDAHooksInterface::isAvailable),
      slot_of(&at::CUDAHooksInterface::hasCUDA),
      slot_of(&at::CUDAHooksInterface::hasPrimaryContext),
      slot_of(&at::CUDAHooksInterface::getNumGPUs),
      slot_of(&at::CUDAHooksInterface::deviceCount),
      slot_of(&at::CUDAHooksInterface::current_device),
      slot_of(&at::CUDAHooksInterface::getCurrentDevice),
      slot_of(&at::CUDAHooksInterface::deviceSynchronize),
      slot_of(&at::CUDAHooksInterface::isPinnedPtr),
  };
  for (const size_t slot : answered) {
    (*table)[kHeader + slot] = answers[slot];
  }
  return table;
}

} // namespace

extern "C" {

// Device number `index` of `count` is current in this thread.
void memgraph_set_device(int index, int count) {
  current_index = static_cast<DeviceIndex>(index);
  visible_devices = static_cast<DeviceIndex>(count);
}

// Put the virtual device in place. Returns 0, or -1 if it already is.
int memgraph_install() {
  if (previous.active) {
    return -1;
  }
  auto& guard = c10::impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)];
  static const auto* virtual_guard = new VirtualGuard(); // never destroyed: guards outlive everything
  const at::CUDAHooksInterface& hooks = at::detail::getCUDAHooks();
  static std::vector<Slot>* table = answering_vtable(vtable_of(&hooks)); // torch never changes the original
  previous = {vtable_of(&hooks), true};
  vtable_of(&hooks) = table->data() + kHeader;
  guard.store(virtual_guard);
  time_no_buckets();
  return 0;
}

// The number of the current stream of this thread.
int64_t memgraph_current_stream() {
  return current_stream;
}

void memgraph_set_stream(int64_t number) {
  current_stream = number;
}

// From now on these hear of streams; nulls: nobody does.
void memgraph_listen(
    int64_t (*create)(int64_t),
    int64_t (*record)(int64_t, int64_t),
    void (*wait)(int64_t, int64_t),
    void (*synchronize)(int64_t, int64_t),
    void (*forget)(int64_t),
    void (*use)(int64_t, int64_t)) {
  listeners = {create, record, wait, synchronize, forget, use};
}

// Undo memgraph_install. Returns 0, or -1 if there was nothing to undo.
int memgraph_uninstall() {
  if (!previous.active) {
    return -1;
  }
  auto& guard = c10::impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)];
  static const auto* left_guard = new LeftGuard();
  vtable_of(&at::detail::getCUDAHooks()) = previous.vtable;
  guard.store(left_guard);
  previous = {};
  return 0;
}

// The autograd engine starts one thread per device when the first backward of the process runs, and never again. If that
// was before the virtual device came, the device's queue is missing and the next backward would abort. To be called after
// a backward: returns 1 if the thread was missing and is started now, 0 if it was there, -1 if torch lacks the functions.
// They are found by name because the engine's header takes ten times longer to compile than this file.
int memgraph_start_engine_thread() {
  auto* get_engine = reinterpret_cast<void* (*)()>(dlsym(RTLD_DEFAULT, "_ZN5torch8autograd6Engine18get_default_engineEv"));
  auto* start = reinterpret_cast<void (*)(void*)>(dlsym(RTLD_DEFAULT, "_ZN5torch8autograd6Engine20start_device_threadsEv"));
  if (!get_engine || !start) {
    return -1;
  }
  try {
    start(get_engine()); // a member function takes `this` first; it asserts that no queue is there yet
    return 1;
  } catch (const c10::Error&) {
    return 0;
  }
}

}
