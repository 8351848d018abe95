/* While there is a file SLOW_DISK, what is written takes SLOW_DISK_MS milliseconds longer until it is on the disk. */

#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void wait_for_the_disk(void) {
  const char *file = getenv("SLOW_DISK"), *milliseconds = getenv("SLOW_DISK_MS");
  if (file && milliseconds && access(file, F_OK) == 0) usleep(atoi(milliseconds) * 1000);
}

int fsync(int file) {
  wait_for_the_disk();
  return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file) {
  wait_for_the_disk();
  return (int)syscall(SYS_fdatasync, file);
}
