/* An NVML that knows one process, this one, which uses USED bytes. Loaded as libnvidia-ml.so.1. See record.py. */
#include <stdlib.h>
#include <unistd.h>

struct Process {
  unsigned pid;
  unsigned long long used;
};

int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **device) {
  *device = (void *)1;
  return 0;
}
int nvmlDeviceGetComputeRunningProcesses(void *device, unsigned *count, struct Process *process) {
  const char *used = getenv("USED");
  *count = 1;
  process->pid = getpid();
  process->used = used ? strtoull(used, 0, 10) : 0;
  return 0;
}
int nvmlDeviceGetGpuFabricInfoV(void) { return 0; }
int nvmlDeviceGetNvLinkRemoteDeviceType(void) { return 3; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void) { return 3; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
  *version = 13020;
  return 0;
}
