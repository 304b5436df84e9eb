// A stand-in for libcuda.so.1: the functions that are used of it, with the signatures and the return codes of NVIDIA's
// documentation (CUDA Driver API 13.0), on the memory of the processor. A stream runs what was enqueued when somebody
// waits for it, on a clock of its own. Compile with -DCUDA_H where cuda.h is to be had: it then has to agree.
//
// FAKE_GPUS: how many there are (1). FAKE_CAPABILITY: theirs, major * 10 + minor (89). FAKE_BYTES: their memory.
#ifdef CUDA_H
#include <cuda.h>
#else
#include <stddef.h>
typedef int CUresult;
typedef int CUdevice, CUdevice_attribute, CUstreamCaptureMode;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
typedef void (*CUhostFn)(void *);
#endif
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <vector>

using Work = std::function<void()>;
struct CUctx_st { int retained; };
struct CUgraph_st { std::vector<Work> works; };
struct CUgraphExec_st { std::vector<Work> works; };
struct CUevent_st { CUstream stream; bool recorded, reached; float at; };
struct CUstream_st {
  std::vector<Work> queue;
  CUgraph captured;
  bool spoiled;
  float now;
  void put(Work work) { (captured ? captured->works : queue).push_back(work); }
  void run() {
    auto works = std::move(queue);
    queue.clear();
    for (auto &work : works) work();
  }
};

static const float COPY_MS = 0.25f, CALL_MS = 2.0f;
static bool started;
static CUctx_st primary;
static thread_local CUcontext current;
static std::set<void *> streams, events, graphs, executables;
static std::map<char *, size_t> on_device, on_host;
static size_t used;

static CUresult told(int code) { return (CUresult)code; }
static long setting(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text ? atol(text) : otherwise;
}
static int ready() { return !started ? 3 : !current ? 201 : 0; }
#define READY() if (int code = ready()) return told(code)
// What is no longer, or never was, is refused, as far as a stand-in can tell.
#define KNOWN(all, handle) if (!all.count(handle)) return told(400)

static bool capturing() {
  for (void *each : streams) if (((CUstream)each)->captured) return true;
  return false;
}
static int spoil() {
  // In a capture, what waits or takes memory is refused, and the capture with it.
  if (!capturing()) return 0;
  for (void *each : streams) ((CUstream)each)->spoiled = ((CUstream)each)->captured != nullptr;
  return 900;
}
static bool holds(const std::map<char *, size_t> &all, const void *address, size_t bytes) {
  for (auto &[begin, size] : all)
    if ((char *)address >= begin && (char *)address + bytes <= begin + size) return true;
  return false;
}
static int take(std::map<char *, size_t> &all, char **address, size_t bytes, bool counts) {
  if (bytes == 0) return 1;
  if (int code = spoil()) return code;
  if (counts && used + bytes > (size_t)setting("FAKE_BYTES", 1L << 40)) return 2;
  *address = (char *)malloc(bytes);
  memset(*address, 0xFF, bytes);  // as floats not a number, as nothing that was computed is
  all[*address] = bytes;
  used += counts ? bytes : 0;
  return 0;
}
static int give_back(std::map<char *, size_t> &all, char *address, bool counts) {
  if (!all.count(address)) return 1;
  if (int code = spoil()) return code;
  for (void *each : streams) ((CUstream)each)->run();
  used -= counts ? all[address] : 0;
  all.erase(address);
  free(address);
  return 0;
}
static int copy(char *target, const char *source, size_t bytes, CUstream stream) {
  if (!streams.count(stream)) return 400;
  stream->put([=] { memcpy(target, source, bytes); stream->now += COPY_MS; });
  return 0;
}

extern "C" {
int fake_live() { return streams.size() + events.size() + graphs.size() + executables.size(); }
size_t fake_device_bytes() { return used; }
size_t fake_host_buffers() { return on_host.size(); }

CUresult cuInit(unsigned int flags) {
  if (flags) return told(1);
  if (setting("FAKE_GPUS", 1) < 1) return told(100);
  started = true;
  return told(0);
}
CUresult cuGetErrorName(CUresult error, const char **text) {
  static const std::map<int, const char *> names = {
    {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {3, "CUDA_ERROR_NOT_INITIALIZED"},
    {100, "CUDA_ERROR_NO_DEVICE"}, {101, "CUDA_ERROR_INVALID_DEVICE"}, {201, "CUDA_ERROR_INVALID_CONTEXT"},
    {400, "CUDA_ERROR_INVALID_HANDLE"}, {600, "CUDA_ERROR_NOT_READY"}, {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"}};
  auto found = names.find((int)error);
  *text = found == names.end() ? nullptr : found->second;
  return told(*text ? 0 : 1);
}
CUresult cuGetErrorString(CUresult error, const char **text) {
  static const std::map<int, const char *> words = {
    {2, "out of memory"}, {100, "no CUDA-capable device is detected"}, {600, "device not ready"},
    {900, "operation not permitted when stream is capturing"},
    {901, "operation failed due to a previous error during capture"}};
  auto found = words.find((int)error);
  if (found == words.end()) return cuGetErrorName(error, text);
  *text = found->second;
  return told(0);
}
CUresult cuDeviceGetCount(int *count) { return *count = setting("FAKE_GPUS", 1), told(started ? 0 : 3); }
CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  if (ordinal < 0 || ordinal >= setting("FAKE_GPUS", 1)) return told(101);
  *device = ordinal + 40;
  return told(started ? 0 : 3);
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  if (device < 40) return told(101);
  if ((int)attribute != 75 && (int)attribute != 76) return told(1);
  long both = setting("FAKE_CAPABILITY", 89);
  *value = (int)attribute == 75 ? both / 10 : both % 10;
  return told(started ? 0 : 3);
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  if (!started || device < 40) return told(started ? 101 : 3);
  if (setting("FAKE_BYTES", 1) < 1) return told(2);
  primary.retained++;
  *context = &primary;
  return told(0);
}
CUresult cuCtxSetCurrent(CUcontext context) {
  if (context && (context != &primary || !primary.retained)) return told(201);
  current = context;
  return told(started ? 0 : 3);
}
CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
  READY();
  if (flags > 1) return told(1);
  *stream = new CUstream_st();
  streams.insert(*stream);
  return told(0);
}
CUresult cuStreamSynchronize(CUstream stream) {
  READY();
  KNOWN(streams, stream);
  if (int code = spoil()) return told(code);
  stream->run();
  return told(0);
}
CUresult cuStreamDestroy_v2(CUstream stream) {
  READY();
  KNOWN(streams, stream);
  stream->run();
  streams.erase(stream);
  delete stream;
  return told(0);
}
CUresult cuEventCreate(CUevent *event, unsigned int flags) {
  READY();
  if (flags > 7) return told(1);
  *event = new CUevent_st();
  events.insert(*event);
  return told(0);
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  READY();
  KNOWN(events, event);
  KNOWN(streams, stream);
  event->stream = stream, event->recorded = true, event->reached = false;
  stream->put([=] { event->reached = true, event->at = stream->now; });
  return told(0);
}
CUresult cuEventSynchronize(CUevent event) {
  READY();
  KNOWN(events, event);
  if (int code = spoil()) return told(code);
  if (event->recorded) event->stream->run();
  return told(0);
}
CUresult cuEventElapsedTime(float *ms, CUevent begin, CUevent end) {
  READY();
  KNOWN(events, begin);
  KNOWN(events, end);
  if (!begin->recorded || !end->recorded) return told(400);
  if (!begin->reached || !end->reached) return told(600);
  *ms = end->at - begin->at;
  return told(0);
}
CUresult cuEventDestroy_v2(CUevent event) {
  READY();
  KNOWN(events, event);
  if (event->recorded && streams.count(event->stream)) event->stream->run();
  events.erase(event);
  delete event;
  return told(0);
}
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
  READY();
  char *made = nullptr;
  int code = take(on_device, &made, bytes, true);
  *address = (CUdeviceptr)made;
  return told(code);
}
CUresult cuMemFree_v2(CUdeviceptr address) { READY(); return told(give_back(on_device, (char *)address, true)); }
CUresult cuMemAllocHost_v2(void **at, size_t bytes) { READY(); return told(take(on_host, (char **)at, bytes, false)); }
CUresult cuMemFreeHost(void *address) { READY(); return told(give_back(on_host, (char *)address, false)); }
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *source, size_t bytes, CUstream stream) {
  READY();
  if (!holds(on_device, (void *)target, bytes) || !holds(on_host, source, bytes)) return told(1);
  return told(copy((char *)target, (const char *)source, bytes, stream));
}
CUresult cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t bytes, CUstream stream) {
  READY();
  if (!holds(on_host, target, bytes) || !holds(on_device, (void *)source, bytes)) return told(1);
  return told(copy((char *)target, (const char *)source, bytes, stream));
}
CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *given) {
  READY();
  KNOWN(streams, stream);
  stream->put([=] { function(given); stream->now += CALL_MS; });
  return told(0);
}
CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
  READY();
  KNOWN(streams, stream);
  if (stream->captured || (int)mode < 0 || (int)mode > 2) return told(1);
  stream->captured = new CUgraph_st();
  stream->spoiled = false;
  return told(0);
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  READY();
  KNOWN(streams, stream);
  *graph = nullptr;
  if (!stream->captured) return told(1);
  CUgraph made = stream->captured;
  stream->captured = nullptr;
  if (stream->spoiled) {
    delete made;
    return told(901);
  }
  graphs.insert(*graph = made);
  return told(0);
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags) {
  READY();
  if (flags > 15 || !graphs.count(graph)) return told(1);
  if (setting("FAKE_BYTES", 1L << 40) < (long)used + 64) return told(2);
  *executable = new CUgraphExec_st{graph->works};
  executables.insert(*executable);
  return told(0);
}
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  READY();
  if (!executables.count(executable)) return told(1);
  KNOWN(streams, stream);
  for (auto &work : executable->works) stream->put(work);
  return told(0);
}
CUresult cuGraphExecDestroy(CUgraphExec executable) {
  READY();
  if (!executables.erase(executable)) return told(1);
  delete executable;
  return told(0);
}
CUresult cuGraphDestroy(CUgraph graph) {
  READY();
  if (!graphs.erase(graph)) return told(1);
  delete graph;
  return told(0);
}
}
