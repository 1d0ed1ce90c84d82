// CUDA's runtime over host memory: what PyTorch and the extension ask of a device that is not there.
//
// Preloaded, so that it stands before the real library. Allocations are the host's and begin as rubbish, streams run at
// once, a captured graph is the list of what was launched, and a kernel is given to the emulator (device.py) to run.
// Also libcuda.so.1, of which PyTorch wants no more than that it is there.
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr int kDevices = 2;
constexpr size_t kAlignment = 512;
constexpr unsigned char kRubbish = 0xA5;

// Bytes of a kernel's one argument, 0 if it cannot be run; and a launch.
using SizeOf = size_t (*)(const char* kernel);
using Launched = int (*)(const char* kernel, uint32_t blocks, uint32_t threads, const void* argument, int device);
using Clock = std::chrono::steady_clock;
using Work = std::function<cudaError_t()>;
struct Graph {
  std::vector<Work> works;
};
struct Allocation {
  size_t size;
  int device;
};

std::recursive_mutex mutex;  // never held when the emulator is called, which waits for Python's own lock
std::map<uintptr_t, Allocation> allocations;
std::map<const void*, std::string> kernels;  // by the host's function
std::map<cudaStream_t, int> devices;         // of the streams that were created
std::shared_ptr<Graph> captured;
cudaStream_t capturing = nullptr;
unsigned long long captures = 0;
SizeOf size_of = nullptr;
Launched launched = nullptr;

thread_local int current = 0;
thread_local cudaError_t last = cudaSuccess;

cudaError_t returned(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

// A stream that nobody created is the current device's own.
int device_of(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  const auto found = devices.find(stream);
  return found == devices.end() ? current : found->second;
}

bool is_captured(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  return captured && stream == capturing;
}

// Now, or whenever the graph is launched that is being captured.
cudaError_t run(cudaStream_t stream, Work work) {
  {
    const std::lock_guard lock(mutex);
    if (is_captured(stream)) {
      captured->works.push_back(std::move(work));
      return cudaSuccess;
    }
  }
  return returned(work());
}

const char* name_of(const void* function) {
  const std::lock_guard lock(mutex);
  const auto found = kernels.find(function);
  return found == kernels.end() ? nullptr : found->second.c_str();
}

cudaError_t launch(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream) {
  const char* const kernel = name_of(function);
  const size_t size = kernel && size_of ? size_of(kernel) : 0;
  if (size == 0) return returned(cudaErrorNotSupported);
  const bool one_dimensional = grid.y == 1 && grid.z == 1 && block.y == 1 && block.z == 1;
  if (!one_dimensional || shared != 0 || device_of(stream) != current) return returned(cudaErrorInvalidValue);
  const auto* const bytes = static_cast<const unsigned char*>(arguments[0]);
  const std::vector<unsigned char> argument(bytes, bytes + size);
  return run(stream, [=, device = current] {
    return static_cast<cudaError_t>(launched(kernel, grid.x, block.x, argument.data(), device));
  });
}

int succeeds() { return 0; }

int context_state(int, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return 0;
}

void* driver_function(const char* name) {
  return std::strstr(name, "PrimaryCtxGetState") ? reinterpret_cast<void*>(&context_state)
                                                 : reinterpret_cast<void*>(&succeeds);
}

}  // namespace

extern "C" {

// For the emulator.

void emulator_runs(SizeOf sizes, Launched launches) {
  size_of = sizes;
  launched = launches;
}

// The graph that is being captured is to call `function` in its turn.
void emulator_replays(void (*function)()) {
  const std::lock_guard lock(mutex);
  captured->works.push_back([=] {
    function();
    return cudaSuccess;
  });
}

// The allocations of a device, by their addresses; returns how many there are.
size_t emulator_allocations(int device, uint64_t* addresses, uint64_t* sizes, size_t room) {
  const std::lock_guard lock(mutex);
  size_t count = 0;
  for (const auto& [address, allocation] : allocations) {
    if (allocation.device != device) continue;
    if (count < room) {
      addresses[count] = address;
      sizes[count] = allocation.size;
    }
    ++count;
  }
  return count;
}

// The driver.

int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long long, int* status) {
  *function = driver_function(name);
  if (status) *status = 0;
  return 0;
}
int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  return context_state(device, flags, active);
}

// Registration.

void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, void*, void*, void*, void*,
                            int*) {
  const std::lock_guard lock(mutex);
  kernels[function] = name;
}

// Devices.

cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return returned(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last; }
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
  *function = driver_function(name);
  if (status) *status = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "emulated");
  properties->major = 9;
  properties->multiProcessorCount = 132;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->l2CacheSize = 50 << 20;
  properties->totalGlobalMem = size_t{8} << 30;
  properties->sharedMemPerBlock = 48 << 10;
  properties->regsPerMultiprocessor = 1 << 16;
  for (int k = 0; k < 3; ++k) {
    properties->maxThreadsDim[k] = k < 2 ? 1024 : 64;
    properties->maxGridSize[k] = k ? 65535 : 2147483647;
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : attribute == cudaDevAttrMultiProcessorCount ? 132 : 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

// Memory.

cudaError_t cudaMalloc(void** pointer, size_t size) {
  const std::lock_guard lock(mutex);
  const size_t whole = (size + kAlignment - 1) / kAlignment * kAlignment;
  *pointer = std::aligned_alloc(kAlignment, whole);
  if (*pointer == nullptr) return returned(cudaErrorMemoryAllocation);
  std::memset(*pointer, kRubbish, whole);
  allocations[reinterpret_cast<uintptr_t>(*pointer)] = {size, current};
  return cudaSuccess;
}
// From the first capture on, memory is kept: a graph's belongs to it, which PyTorch's cache, if it were on, would see
// to.
cudaError_t cudaFree(void* pointer) {
  const std::lock_guard lock(mutex);
  if (captures != 0) return cudaSuccess;
  allocations.erase(reinterpret_cast<uintptr_t>(pointer));
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *available = *total = size_t{4} << 30;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
  return run(stream, [=] {
    std::memmove(to, from, size);
    return cudaSuccess;
  });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, size, kind, nullptr);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t stream) {
  return run(stream, [=] {
    std::memset(to, value, size);
    return cudaSuccess;
  });
}
cudaError_t cudaHostAlloc(void** pointer, size_t size, unsigned) {
  *pointer = std::malloc(size);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
  *attributes = {};
  return cudaSuccess;
}

// Streams and events.

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  const std::lock_guard lock(mutex);
  *stream = reinterpret_cast<cudaStream_t>(16 * (devices.size() + 1));
  devices[*stream] = current;
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
// An event is when it was recorded.
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Clock::time_point);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Clock::time_point*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  *reinterpret_cast<Clock::time_point*>(event) = Clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  using Milliseconds = std::chrono::duration<float, std::milli>;
  const auto time = [](cudaEvent_t event) { return *reinterpret_cast<Clock::time_point*>(event); };
  *milliseconds = Milliseconds(time(end) - time(begin)).count();
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }

// Kernels.

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t bytes,
                             cudaStream_t stream) {
  return launch(function, grid, block, arguments, bytes, stream);
}
// As nvcc has `<<<>>>`: a kernel's handle is its function.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t bytes,
                               cudaStream_t stream) {
  return launch(kernel, grid, block, arguments, bytes, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  return launch(function, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes, config->stream);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}

// Graphs.

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = is_captured(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
  const std::lock_guard lock(mutex);
  if (id) *id = captures;
  if (graph) *graph = reinterpret_cast<cudaGraph_t>(captured.get());
  if (dependencies) *dependencies = nullptr;
  if (edges) *edges = nullptr;
  if (count) *count = 0;
  return cudaStreamIsCapturing(stream, status);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard lock(mutex);
  if (captured) return returned(cudaErrorStreamCaptureUnsupported);
  captured = std::make_shared<Graph>();
  capturing = stream;
  ++captures;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t, const cudaGraphNode_t*,
                                          const cudaGraphEdgeData*, size_t, cudaStreamCaptureMode mode) {
  return cudaStreamBeginCapture(stream, mode);
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  const std::lock_guard lock(mutex);
  *graph = reinterpret_cast<cudaGraph_t>(new Graph(*captured));
  captured.reset();
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = reinterpret_cast<Graph*>(graph)->works.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  for (const Work& work : reinterpret_cast<Graph*>(executable)->works) {
    if (const cudaError_t error = work(); error != cudaSuccess) return returned(error);
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return cudaGraphDestroy(reinterpret_cast<cudaGraph_t>(executable));
}
cudaError_t cudaGraphRetainUserObject(cudaGraph_t, cudaUserObject_t, unsigned, unsigned) { return cudaSuccess; }
cudaError_t cudaUserObjectCreate(cudaUserObject_t*, void*, cudaHostFn_t, unsigned, unsigned) { return cudaSuccess; }
cudaError_t cudaUserObjectRelease(cudaUserObject_t, unsigned) { return cudaSuccess; }

}  // extern "C"
