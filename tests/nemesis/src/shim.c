/* One disk error on demand, preloaded into a member: system calls on files below NEMESIS_DIR fail with EIO once the file
   NEMESIS_ARM names their kind. "fdatasync" fails one call and leaves the mark NEMESIS_ARM.fired; "fdatasync+" fails all from then on. "lie+" fails
   nothing, but syncs nothing either. "slow 5 50" fails nothing: each sync takes 5 to 50 ms longer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Plain system calls throughout: the wrappers below would come here again. */
static int fires(const char *kind) {
  const char *arm = getenv("NEMESIS_ARM");
  if (!arm) return 0;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, arm, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char want[32] = {0};
  ssize_t n = syscall(SYS_read, fd, want, sizeof want - 1);
  syscall(SYS_close, fd);
  size_t len = strlen(kind);
  if (n < (ssize_t)len || strncmp(want, kind, len)) return 0;
  char fired[PATH_MAX];
  snprintf(fired, sizeof fired, "%s.fired", arm);
  if (want[len] == '+') {
    fd = (int)syscall(SYS_openat, AT_FDCWD, fired, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0) syscall(SYS_close, fd);
    return 1;
  }
  /* Of several threads the one that moves the mark fails. */
  return syscall(SYS_renameat2, AT_FDCWD, arm, AT_FDCWD, fired, 0) == 0;
}

static void slow_down(void) {
  const char *arm = getenv("NEMESIS_ARM");
  if (!arm) return;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, arm, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  char want[32] = {0};
  ssize_t n = syscall(SYS_read, fd, want, sizeof want - 1);
  syscall(SYS_close, fd);
  long from, to;
  if (n <= 0 || sscanf(want, "slow %ld %ld", &from, &to) != 2 || to < from) return;
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  /* Microseconds between the two, spread by the clock. */
  long us = from * 1000 + (long)((unsigned long)t.tv_nsec * 2654435761UL % 1000003UL % (unsigned long)((to - from) * 1000 + 1));
  t.tv_sec = us / 1000000;
  t.tv_nsec = us % 1000000 * 1000;
  nanosleep(&t, NULL);
}

static int inside(const char *path) {
  const char *dir = getenv("NEMESIS_DIR");
  return dir && !strncmp(path, dir, strlen(dir));
}

static int fd_inside(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (n <= 0) return 0;
  path[n] = 0;
  return inside(path);
}

static int is_dir(int fd) {
  struct stat st;
  return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF(condition)                                                                                                     \
  if (condition) {                                                                                                             \
    errno = EIO;                                                                                                               \
    return -1;                                                                                                                 \
  }

ssize_t write(int fd, const void *data, size_t n) {
  FAIL_IF(fd_inside(fd) && fires("write"))
  return REAL(write)(fd, data, n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
  FAIL_IF(fd_inside(fd) && fires("write"))
  return REAL(pwrite)(fd, data, n, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
  FAIL_IF(fd_inside(fd) && fires("write"))
  return REAL(pwrite64)(fd, data, n, at);
}
ssize_t writev(int fd, const struct iovec *data, int n) {
  FAIL_IF(fd_inside(fd) && fires("write"))
  return REAL(writev)(fd, data, n);
}
ssize_t pwritev(int fd, const struct iovec *data, int n, off_t at) {
  FAIL_IF(fd_inside(fd) && fires("write"))
  return REAL(pwritev)(fd, data, n, at);
}
int fdatasync(int fd) {
  if (fd_inside(fd) && fires("lie")) return 0;
  if (fd_inside(fd)) slow_down();
  FAIL_IF(fd_inside(fd) && fires(is_dir(fd) ? "dirsync" : "fdatasync"))
  return REAL(fdatasync)(fd);
}
int fsync(int fd) {
  if (fd_inside(fd) && fires("lie")) return 0;
  if (fd_inside(fd)) slow_down();
  FAIL_IF(fd_inside(fd) && fires(is_dir(fd) ? "dirsync" : "fdatasync"))
  return REAL(fsync)(fd);
}
int rename(const char *from, const char *to) {
  FAIL_IF(inside(to) && fires("rename"))
  return REAL(rename)(from, to);
}
int renameat(int fd, const char *from, int to_fd, const char *to) {
  FAIL_IF(inside(to) && fires("rename"))
  return REAL(renameat)(fd, from, to_fd, to);
}
int renameat2(int fd, const char *from, int to_fd, const char *to, unsigned flags) {
  FAIL_IF(inside(to) && fires("rename"))
  return REAL(renameat2)(fd, from, to_fd, to, flags);
}
