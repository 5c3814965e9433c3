/* false_clock.c: for LD_PRELOAD: an adjtimex that says what is in the file $KVQD_FALSE_CLOCK now: "synced", "unsynced",
 * or "denied" (EPERM, as in a sandbox). The real one says what the test's machine happens to be. Used by world.py; no
 * sanitizer of the daemon's is in it, because a sanitizer's runtime wants to be loaded first. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>

int adjtimex(struct timex *t) {
    char says[16] = "";
    FILE *file = fopen(getenv("KVQD_FALSE_CLOCK"), "re");
    if (!file || !fgets(says, sizeof says, file)) abort(); /* the test is wrong */
    fclose(file);
    if (strcmp(says, "denied") == 0) {
        errno = EPERM;
        return -1;
    }
    int is_synced = strcmp(says, "synced") == 0;
    *t = (struct timex){.status = is_synced ? 0 : STA_UNSYNC};
    return is_synced ? TIME_OK : TIME_ERROR;
}
