/* journal.c: the durable queue in SQLite. See journal.h.
 *
 * A row of `prompt` is a prompt as it came (topic, MQTT 5 properties), later also its name and seed, then its answer.
 * Its payload is a row of `payload`, because SQLite writes all of a row whenever a number in it changes. The payload
 * stays until the row goes: "the same prompt" is decided by comparing bytes, never by a hash. Bytes are counted as the
 * sum of what rows hold, whatever a client can make long, kept in memory and summed once at open; the file may be
 * larger by what SQLite keeps free. An answer may exceed max_bytes: it is the end of a promise already made. */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define SCHEMA_VERSION 1
#define FORGOTTEN_AT_ONCE 64 /* delivered answers, where a prompt needs room */

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS prompt ("
    " row INTEGER PRIMARY KEY AUTOINCREMENT,"
    " topic TEXT NOT NULL, packet_id INTEGER NOT NULL, qos INTEGER NOT NULL, from_pool INTEGER NOT NULL,"
    " received_ms INTEGER NOT NULL, clock_synced INTEGER NOT NULL,"
    " response_topic TEXT NOT NULL, content_type TEXT NOT NULL, correlation BLOB NOT NULL, expiry_s INTEGER NOT NULL,"
    " name TEXT NOT NULL DEFAULT '', seed INTEGER, attempts INTEGER NOT NULL DEFAULT 0,"
    " sequence INTEGER, reusable INTEGER NOT NULL DEFAULT 0, finished_ms INTEGER, delivered INTEGER NOT NULL DEFAULT 0,"
    " answer_topic TEXT, answer_correlation BLOB, answer BLOB);"
    "CREATE TABLE IF NOT EXISTS payload (row INTEGER PRIMARY KEY, bytes BLOB NOT NULL);"
    "CREATE TRIGGER IF NOT EXISTS prompt_gone AFTER DELETE ON prompt BEGIN DELETE FROM payload WHERE row = old.row; "
    "END;"
    "CREATE INDEX IF NOT EXISTS prompt_unanswered ON prompt(row) WHERE sequence IS NULL;"
    "CREATE UNIQUE INDEX IF NOT EXISTS prompt_undelivered ON prompt(sequence) WHERE sequence IS NOT NULL AND delivered "
    "= 0;"
    "CREATE INDEX IF NOT EXISTS prompt_delivered ON prompt(finished_ms) WHERE delivered = 1;"
    "CREATE INDEX IF NOT EXISTS prompt_name ON prompt(name) WHERE sequence IS NOT NULL;"
    "CREATE INDEX IF NOT EXISTS prompt_packet ON prompt(packet_id);"
    "CREATE TABLE IF NOT EXISTS remembered (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;";

#define PAYLOAD "(SELECT bytes FROM payload WHERE payload.row = prompt.row)"
#define BYTES_OF(text) "ifnull(length(CAST(" text " AS BLOB)), 0)" /* length() of a text counts characters */
/* What a row costs; 512 is for all that is in it besides texts and blobs, roughly. */
/* clang-format off */
#define COST "(ifnull((SELECT length(bytes) FROM payload WHERE payload.row = prompt.row), 0) + ifnull(length(answer), 0) + " \
    "length(correlation) + ifnull(length(answer_correlation), 0) + " \
    BYTES_OF("topic") " + " BYTES_OF("response_topic") " + " BYTES_OF("content_type") " + " BYTES_OF("answer_topic") " + 512)"
#define SUMS "SELECT ifnull(sum(" COST "), 0), ifnull(sum(sequence IS NULL), 0), " \
    "ifnull(sum(sequence IS NOT NULL AND delivered = 0), 0), ifnull(sum(delivered), 0), ifnull(max(sequence), 0) FROM prompt"
#define THE_ROW " WHERE row = ?1"
#define OLD " WHERE delivered = 1 AND finished_ms < ?1"
#define OLDEST " WHERE row IN (SELECT row FROM prompt WHERE delivered = 1 ORDER BY finished_ms, row LIMIT ?1)"
/* clang-format on */
#define MESSAGE_COLUMNS \
    "topic, packet_id, qos, from_pool, received_ms, clock_synced, response_topic, content_type, correlation, expiry_s"

/* clang-format off */
#define STATEMENT_MAP(X) \
    X(APPEND, "INSERT INTO prompt(" MESSAGE_COLUMNS ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)") \
    X(APPEND_PAYLOAD, "INSERT INTO payload(row, bytes) VALUES(last_insert_rowid(), ?1)") \
    X(BEGIN, "BEGIN IMMEDIATE") \
    X(COMMIT, "COMMIT") \
    X(ROLLBACK, "ROLLBACK") \
    X(FIND_REPEAT, "SELECT 1 FROM prompt WHERE packet_id = ?1 AND topic = ?2 AND " PAYLOAD " = ?3 AND from_pool = ?4 AND delivered = 0") \
    X(NEXT_PROMPT, "SELECT row, attempts, seed, name, " PAYLOAD ", " MESSAGE_COLUMNS " FROM prompt WHERE sequence IS NULL AND row > ?1 ORDER BY row LIMIT 1") \
    X(START, "UPDATE prompt SET name = ?2, seed = ?3, attempts = attempts + 1 WHERE row = ?1") \
    X(FORGIVE, "UPDATE prompt SET attempts = max(0, attempts - 1) WHERE row = ?1") \
    X(FINISH, "UPDATE prompt SET name = ?2, answer_topic = ?3, answer_correlation = ?4, answer = ?5, reusable = ?6, finished_ms = ?7, sequence = ?8 WHERE row = ?1") \
    X(FIND_ANSWER, "SELECT row, sequence, answer_topic, answer, answer_correlation FROM prompt WHERE name = ?1 AND " PAYLOAD " = ?2 AND content_type = ?3 AND reusable = 1 AND sequence IS NOT NULL ORDER BY sequence DESC LIMIT 1") \
    X(NEXT_ANSWER, "SELECT row, sequence, answer_topic, answer, answer_correlation FROM prompt WHERE sequence > ?1 AND sequence IS NOT NULL AND delivered = 0 ORDER BY sequence LIMIT 1") \
    X(DELIVERED, "UPDATE prompt SET delivered = 1 WHERE row = ?1 AND delivered = 0") \
    X(SUM_ALL, SUMS) \
    X(SUM_ROW, SUMS THE_ROW)     X(DELETE_ROW, "DELETE FROM prompt" THE_ROW) \
    X(SUM_OLD, SUMS OLD)         X(DELETE_OLD, "DELETE FROM prompt" OLD) \
    X(SUM_OLDEST, SUMS OLDEST)   X(DELETE_OLDEST, "DELETE FROM prompt" OLDEST) \
    X(LAST_ROW, "SELECT ifnull(max(row), 0) FROM prompt") \
    X(REMEMBER, "INSERT INTO remembered(key, value) VALUES(?1, ?2)") \
    X(RECALL, "SELECT value FROM remembered WHERE key = ?1")
/* clang-format on */

enum statement {
#define X(name, sql) name,
    STATEMENT_MAP(X)
#undef X
        N_STATEMENTS
};

static const char *const statement_sql[] = {
#define X(name, sql) sql,
    STATEMENT_MAP(X)
#undef X
};

struct journal {
    pthread_mutex_t mutex; /* everything below */
    sqlite3 *db;
    char *path;
    int lock_fd;
    sqlite3_stmt *statements[N_STATEMENTS];
    uint64_t max_bytes;
    int64_t retain_ms, last_sequence;
    journal_stats stats;
};

static kvq_status db_fail(journal *j, const char *what, kvq_error *err) {
    return kvq_fail(err, KVQ_IO, "%s in '%s': %s", what, j->path, j->db ? sqlite3_errmsg(j->db) : "no memory");
}

/* ---- statements ------------------------------------------------------------------------------------------ */

static void bind_text(sqlite3_stmt *s, int i, const char *text) {
    (void)sqlite3_bind_text(s, i, text ? text : "", -1, SQLITE_STATIC); /* an index of ours in range: cannot fail */
}

static void bind_blob(sqlite3_stmt *s, int i, const void *bytes, size_t n_bytes) {
    if (n_bytes)
        (void)sqlite3_bind_blob64(s, i, bytes, n_bytes, SQLITE_STATIC);
    else
        (void)sqlite3_bind_zeroblob(s, i, 0); /* a NULL pointer would bind NULL */
}

static void bind_int(sqlite3_stmt *s, int i, int64_t n) {
    (void)sqlite3_bind_int64(s, i, n);
}

static void bind_message(sqlite3_stmt *s, const message *m) {
    bind_text(s, 1, m->topic);
    bind_int(s, 2, m->packet_id);
    bind_int(s, 3, m->qos);
    bind_int(s, 4, m->from_pool);
    bind_int(s, 5, m->received_ms);
    bind_int(s, 6, m->clock_synced);
    bind_text(s, 7, m->response_topic);
    bind_text(s, 8, m->content_type);
    bind_blob(s, 9, m->correlation, m->n_correlation_bytes);
    bind_int(s, 10, m->expiry_s);
}

/* SQLITE_ROW: the caller reads and resets; anything else is reset here. */
static int step(sqlite3_stmt *s) {
    int rc = sqlite3_step(s);
    if (rc != SQLITE_ROW) (void)sqlite3_reset(s); /* repeats the error of step */
    return rc;
}

/* A statement that changes something. */
static kvq_status change(journal *j, sqlite3_stmt *s, const char *what, kvq_error *err) {
    return step(s) == SQLITE_DONE ? KVQ_OK : db_fail(j, what, err);
}

/* One that need not survive power loss: no flush of the disk on the engine's thread. Within a transaction its COMMIT
 * decides. */
static kvq_status change_lazily(journal *j, sqlite3_stmt *s, const char *what, kvq_error *err) {
    bool relaxed = sqlite3_get_autocommit(j->db) &&
                   sqlite3_exec(j->db, "PRAGMA synchronous = NORMAL", NULL, NULL, NULL) == SQLITE_OK;
    kvq_status status = change(j, s, what, err);
    if (relaxed && sqlite3_exec(j->db, "PRAGMA synchronous = FULL", NULL, NULL, NULL) != SQLITE_OK && !status)
        status = db_fail(j, "restoring full durability", err);
    return status;
}

static sqlite3_stmt *on_row(journal *j, enum statement which, int64_t row) {
    sqlite3_stmt *s = j->statements[which];
    bind_int(s, 1, row);
    return s;
}

/* ---- sums ------------------------------------------------------------------------------------------------ */

/* which: a SUM_... with its argument. */
static kvq_status sum(journal *j, enum statement which, int64_t argument, journal_stats *ret, kvq_error *err) {
    sqlite3_stmt *s = which == SUM_ALL ? j->statements[which] : on_row(j, which, argument);
    if (step(s) != SQLITE_ROW) return db_fail(j, "summing", err);
    *ret = (journal_stats){
        .bytes = (uint64_t)sqlite3_column_int64(s, 0),
        .n_unanswered = (uint64_t)sqlite3_column_int64(s, 1),
        .n_undelivered = (uint64_t)sqlite3_column_int64(s, 2),
        .n_kept = (uint64_t)sqlite3_column_int64(s, 3),
    };
    int64_t last = sqlite3_column_int64(s, 4);
    if (last > j->last_sequence) j->last_sequence = last;
    (void)sqlite3_reset(s);
    return KVQ_OK;
}

/* 0 if there is no such row. */
static uint64_t cost_of(journal *j, int64_t row) {
    journal_stats sums = {0};
    return sum(j, SUM_ROW, row, &sums, NULL) ? 0 : sums.bytes;
}

/* Not below 0: somebody may have changed rows with the sqlite3 program. */
static void take_off(uint64_t *counter, uint64_t n) {
    *counter -= n < *counter ? n : *counter;
}

/* Deletes rows; which and delete: SUM_... and DELETE_... of the same ones. */
static kvq_status forget(journal *j, enum statement which, enum statement delete, int64_t argument, const char *what,
                         kvq_error *err) {
    journal_stats gone = {0};
    kvq_status status = sum(j, which, argument, &gone, err);
    if (!status) status = change_lazily(j, on_row(j, delete, argument), what, err);
    if (status) return status;
    take_off(&j->stats.bytes, gone.bytes);
    take_off(&j->stats.n_unanswered, gone.n_unanswered);
    take_off(&j->stats.n_undelivered, gone.n_undelivered);
    take_off(&j->stats.n_kept, gone.n_kept);
    return KVQ_OK;
}

/* ---- opening --------------------------------------------------------------------------------------------- */

static bool run(journal *j, const char *sql) {
    return sqlite3_exec(j->db, sql, NULL, NULL, NULL) == SQLITE_OK;
}

/* 0: of a new file; -1: it cannot be read. */
static int read_version(journal *j) {
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(j->db, "PRAGMA user_version", -1, &s, NULL) != SQLITE_OK) return -1;
    int version = sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int(s, 0) : -1;
    (void)sqlite3_finalize(s);
    return version;
}

/* Writes nothing that is so already: on a full disk too what is in the journal can be served. */
static kvq_status open_db(journal *j, const char *locking_mode, kvq_error *err) {
    if (sqlite3_open_v2(j->path, &j->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        return db_fail(j, "opening the journal", err);
    (void)sqlite3_busy_timeout(j->db, 5000); /* somebody looks into it with the sqlite3 program */
    char set_version[64];
    snprintf(set_version, sizeof set_version, "PRAGMA user_version = %d", SCHEMA_VERSION);
    if (!run(j, locking_mode) || !run(j, "PRAGMA journal_mode = WAL") || !run(j, "PRAGMA synchronous = FULL") ||
        !run(j, "PRAGMA secure_delete = OFF"))
        return db_fail(j, "setting up the journal", err);
    int version = read_version(j);
    if (version > SCHEMA_VERSION) return kvq_fail(err, KVQ_BAD_FILE, "'%s' was written by a newer kvqd", j->path);
    if (version < 0 || !run(j, schema) || (version == 0 && !run(j, set_version)))
        return db_fail(j, "setting up the journal", err);
    for (int i = 0; i < N_STATEMENTS; i++)
        if (sqlite3_prepare_v3(j->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT, &j->statements[i], NULL) !=
            SQLITE_OK)
            return db_fail(j, "preparing a statement", err);
    return sum(j, SUM_ALL, 0, &j->stats, err);
}

static void close_db(journal *j) {
    for (int i = 0; i < N_STATEMENTS; i++) {
        (void)sqlite3_finalize(j->statements[i]); /* NULL allowed; repeats an error told before */
        j->statements[i] = NULL;
    }
    (void)sqlite3_close(j->db);
    j->db = NULL;
}

/* The file cannot be read: keep it for a person to look at, with its log, and begin a new one. */
static kvq_status put_aside(journal *j, kvq_error *err) {
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    char from[4096], to[4096];
    for (int i = 0; i < 3; i++) {
        snprintf(from, sizeof from, "%s%s", j->path, suffixes[i]);
        snprintf(to, sizeof to, "%s.damaged%s", j->path, suffixes[i]);
        if (rename(from, to) != 0 && i == 0)
            return kvq_fail(err, KVQ_IO, "cannot put the damaged '%s' aside: %m", j->path);
    }
    return KVQ_OK;
}

static bool is_damaged(int code) {
    return code == SQLITE_CORRUPT || code == SQLITE_NOTADB;
}

/* The index of the WAL is a file of 32 KiB that every start makes anew: a full disk has no room for it. Where nobody
 * else may open the journal SQLite keeps the index in memory instead, so then people who want to look have to wait. */
static kvq_status open_db_somehow(journal *j, int *ret_code, kvq_error *err) {
    kvq_status status = open_db(j, "PRAGMA locking_mode = NORMAL", err);
    *ret_code = j->db ? sqlite3_errcode(j->db) : SQLITE_OK;
    if (!status || (*ret_code != SQLITE_IOERR && *ret_code != SQLITE_FULL)) return status;
    close_db(j);
    status = open_db(j, "PRAGMA locking_mode = EXCLUSIVE", err);
    *ret_code = j->db ? sqlite3_errcode(j->db) : SQLITE_OK;
    return status;
}

/* Two daemons on one journal would run every prompt twice and answer with each other's rows. The lock is the kernel's,
 * so it ends with the process, however that ends; not SQLite's, which would shut out people who look into the file. */
static kvq_status take_lock(journal *j, const char *folder, kvq_error *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/journal.lock", folder);
    j->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (j->lock_fd < 0) return kvq_fail(err, KVQ_IO, "cannot open '%s': %m", path);
    if (flock(j->lock_fd, LOCK_EX | LOCK_NB) == 0) return KVQ_OK;
    if (errno != EWOULDBLOCK) return kvq_fail(err, KVQ_IO, "cannot lock '%s': %m", path);
    return kvq_fail(err, KVQ_BUSY, "another kvqd uses the state folder '%s': it holds '%s'; give each one its own",
                    folder, path);
}

kvq_status journal_open(const char *folder, journal **ret, bool *ret_damaged, kvq_error *err) {
    journal *j = calloc(1, sizeof *j);
    if (!j || asprintf(&j->path, "%s/journal.db", folder) < 0) {
        free(j);
        return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the journal in '%s'", folder);
    }
    (void)pthread_mutex_init(&j->mutex, NULL); /* a default mutex needs no resource */
    j->max_bytes = UINT64_MAX;
    j->retain_ms = INT64_MAX;
    j->lock_fd = -1;
    int code = SQLITE_OK;
    kvq_status status = take_lock(j, folder, err);
    if (!status) status = open_db_somehow(j, &code, err);
    bool damaged = status && is_damaged(code);
    if (damaged) {
        close_db(j);
        status = put_aside(j, err);
        if (!status) status = open_db_somehow(j, &code, err);
    }
    if (status) {
        journal_close(j);
        return status;
    }
    *ret_damaged = damaged;
    *ret = j;
    return KVQ_OK;
}

void journal_close(journal *j) {
    if (!j) return;
    close_db(j);
    (void)pthread_mutex_destroy(&j->mutex);
    if (j->lock_fd >= 0) (void)close(j->lock_fd); /* nothing was written there */
    free(j->path);
    free(j);
}

static void lock(journal *j) {
    (void)pthread_mutex_lock(&j->mutex); /* fails only for a mutex that is not one */
}

static void unlock(journal *j) {
    (void)pthread_mutex_unlock(&j->mutex);
}

void journal_set_limits(journal *j, uint64_t max_bytes, int64_t retain_ms) {
    lock(j);
    j->max_bytes = max_bytes;
    j->retain_ms = retain_ms;
    unlock(j);
}

/* ---- prompts --------------------------------------------------------------------------------------------- */

/* The broker counts a packet id as free once it has our PUBACK, so an equal message under the same id that it does not
 * flag as a duplicate is a new one. So is one like a prompt whose answer it acknowledged: our PUBACK went out before
 * that answer did. */
static bool is_repeat(journal *j, const message *m) {
    if (!m->duplicate) return false;
    sqlite3_stmt *s = j->statements[FIND_REPEAT];
    bind_int(s, 1, m->packet_id);
    bind_text(s, 2, m->topic);
    bind_blob(s, 3, m->payload, m->n_bytes);
    bind_int(s, 4, m->from_pool);
    bool found = step(s) == SQLITE_ROW;
    (void)sqlite3_reset(s);
    return found;
}

/* Counts a prompt that was just inserted; if need be the oldest delivered answers go for it. */
static kvq_status take_room(journal *j, uint64_t n_bytes, kvq_error *err) {
    while (j->stats.bytes > j->max_bytes || n_bytes > j->max_bytes - j->stats.bytes) {
        uint64_t n_kept = j->stats.n_kept;
        kvq_status status = KVQ_OK;
        if (n_kept > 0) status = forget(j, SUM_OLDEST, DELETE_OLDEST, FORGOTTEN_AT_ONCE, "forgetting answers", err);
        if (status) return status;
        if (j->stats.n_kept >= n_kept)
            return kvq_fail(err, KVQ_BUSY,
                            "the journal is full: %llu of %llu bytes hold unanswered prompts and undelivered answers",
                            (unsigned long long)j->stats.bytes, (unsigned long long)j->max_bytes);
    }
    j->stats.bytes += n_bytes;
    j->stats.n_unanswered++;
    return KVQ_OK;
}

static kvq_status insert(journal *j, const message *m, kvq_error *err) {
    static const char what[] = "storing a prompt";
    bind_message(j->statements[APPEND], m);
    bind_blob(j->statements[APPEND_PAYLOAD], 1, m->payload, m->n_bytes);
    kvq_status status = change(j, j->statements[APPEND], what, err);
    if (!status) status = change(j, j->statements[APPEND_PAYLOAD], what, err);
    if (!status) status = take_room(j, cost_of(j, sqlite3_last_insert_rowid(j->db)), err);
    if (!status) status = change(j, j->statements[COMMIT], what, err);
    return status;
}

/* Inserted before it is known whether there is room: what it costs only its row says. */
static kvq_status append(journal *j, const message *m, kvq_error *err) {
    if (is_repeat(j, m)) return KVQ_OK;
    journal_stats before = j->stats;
    kvq_status status = change(j, j->statements[BEGIN], "storing a prompt", err);
    if (status) return status;
    status = insert(j, m, err);
    if (status) {
        (void)step(j->statements[ROLLBACK]); /* the failure may have done it already */
        j->stats = before;
    }
    return status;
}

kvq_status journal_append(journal *j, const message *m, kvq_error *err) {
    lock(j);
    kvq_status status = append(j, m, err);
    unlock(j);
    return status;
}

static const char *column_text(sqlite3_stmt *s, int i) {
    const unsigned char *text = sqlite3_column_text(s, i);
    return text ? (const char *)text : "";
}

static message *read_message(sqlite3_stmt *s, int first) {
    message m = {
        .payload = sqlite3_column_blob(s, first),
        .n_bytes = (size_t)sqlite3_column_bytes(s, first),
        .topic = column_text(s, first + 1),
        .packet_id = sqlite3_column_int(s, first + 2),
        .qos = sqlite3_column_int(s, first + 3),
        .from_pool = sqlite3_column_int(s, first + 4),
        .received_ms = sqlite3_column_int64(s, first + 5),
        .clock_synced = sqlite3_column_int(s, first + 6),
        .response_topic = column_text(s, first + 7),
        .content_type = column_text(s, first + 8),
        .correlation = sqlite3_column_blob(s, first + 9),
        .n_correlation_bytes = (size_t)sqlite3_column_bytes(s, first + 9),
        .expiry_s = sqlite3_column_int64(s, first + 10),
    };
    return message_copy(&m);
}

static kvq_status next_prompt(journal *j, int64_t after, journal_row *ret, kvq_error *err) {
    sqlite3_stmt *s = on_row(j, NEXT_PROMPT, after);
    int rc = step(s);
    if (rc == SQLITE_DONE) return KVQ_NOT_FOUND;
    if (rc != SQLITE_ROW) return db_fail(j, "reading a prompt", err);
    journal_row r = {
        .row = sqlite3_column_int64(s, 0),
        .attempts = sqlite3_column_int(s, 1),
        .has_seed = sqlite3_column_type(s, 2) != SQLITE_NULL,
        .seed = (uint64_t)sqlite3_column_int64(s, 2),
        .message = read_message(s, 4),
    };
    snprintf(r.name, sizeof r.name, "%s", column_text(s, 3));
    (void)sqlite3_reset(s);
    if (!r.message) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for a prompt of the journal");
    *ret = r;
    return KVQ_OK;
}

kvq_status journal_next_prompt(journal *j, int64_t after, journal_row *ret, kvq_error *err) {
    lock(j);
    kvq_status status = next_prompt(j, after, ret, err);
    unlock(j);
    return status;
}

kvq_status journal_start(journal *j, int64_t row, const char *name, uint64_t seed, kvq_error *err) {
    lock(j);
    sqlite3_stmt *s = on_row(j, START, row);
    bind_text(s, 2, name);
    bind_int(s, 3, (int64_t)seed);
    kvq_status status = change_lazily(j, s, "starting a prompt", err);
    unlock(j);
    return status;
}

kvq_status journal_forgive(journal *j, int64_t row, kvq_error *err) {
    lock(j);
    kvq_status status = change_lazily(j, on_row(j, FORGIVE, row), "stopping a prompt", err);
    unlock(j);
    return status;
}

/* ---- answers --------------------------------------------------------------------------------------------- */

kvq_status journal_finish(journal *j, int64_t row, const char *name, const char *topic, const void *correlation,
                          size_t n_correlation_bytes, const void *payload, size_t n_bytes, bool reusable,
                          kvq_error *err) {
    lock(j);
    uint64_t cost_before = cost_of(j, row);
    sqlite3_stmt *s = on_row(j, FINISH, row);
    bind_text(s, 2, name);
    bind_text(s, 3, topic);
    bind_blob(s, 4, correlation, n_correlation_bytes);
    bind_blob(s, 5, payload, n_bytes);
    bind_int(s, 6, reusable);
    bind_int(s, 7, clock_wall_ms());
    bind_int(s, 8, j->last_sequence + 1);
    kvq_status status = change(j, s, "storing an answer", err);
    if (!status && sqlite3_changes(j->db) > 0) {
        j->last_sequence++;
        j->stats.bytes += cost_of(j, row) - cost_before;
        take_off(&j->stats.n_unanswered, 1);
        j->stats.n_undelivered++;
    }
    unlock(j);
    return status;
}

static void *copy_blob(sqlite3_stmt *s, int i, size_t *ret_n) {
    size_t n = (size_t)sqlite3_column_bytes(s, i);
    void *copy = malloc(n + 1);
    if (!copy) return NULL;
    if (n) memcpy(copy, sqlite3_column_blob(s, i), n);
    ((char *)copy)[n] = '\0';
    *ret_n = n;
    return copy;
}

static kvq_status read_answer(journal *j, sqlite3_stmt *s, journal_answer *ret, kvq_error *err) {
    int rc = step(s);
    if (rc == SQLITE_DONE) return KVQ_NOT_FOUND;
    if (rc != SQLITE_ROW) return db_fail(j, "reading an answer", err);
    size_t n_topic;
    journal_answer a = {.row = sqlite3_column_int64(s, 0), .sequence = sqlite3_column_int64(s, 1)};
    a.topic = copy_blob(s, 2, &n_topic);
    a.payload = copy_blob(s, 3, &a.n_bytes);
    a.correlation = copy_blob(s, 4, &a.n_correlation_bytes);
    (void)sqlite3_reset(s);
    if (!a.topic || !a.payload || !a.correlation) {
        journal_answer_done(&a);
        return kvq_fail(err, KVQ_NO_MEMORY, "no memory for an answer of the journal");
    }
    *ret = a;
    return KVQ_OK;
}

kvq_status journal_find_answer(journal *j, const char *name, const message *m, journal_answer *ret, kvq_error *err) {
    lock(j);
    sqlite3_stmt *s = j->statements[FIND_ANSWER];
    bind_text(s, 1, name);
    bind_blob(s, 2, m->payload, m->n_bytes);
    bind_text(s, 3, m->content_type);
    kvq_status status = read_answer(j, s, ret, err);
    unlock(j);
    return status;
}

kvq_status journal_next_answer(journal *j, int64_t after, journal_answer *ret, kvq_error *err) {
    lock(j);
    kvq_status status = read_answer(j, on_row(j, NEXT_ANSWER, after), ret, err);
    unlock(j);
    return status;
}

void journal_answer_done(journal_answer *a) {
    free(a->topic);
    free(a->payload);
    free(a->correlation);
    *a = (journal_answer){0};
}

static kvq_status delete_row(journal *j, int64_t row, kvq_error *err) {
    return forget(j, SUM_ROW, DELETE_ROW, row, "dropping a prompt", err);
}

static kvq_status keep_delivered(journal *j, int64_t row, kvq_error *err) {
    kvq_status status = change_lazily(j, on_row(j, DELIVERED, row), "marking an answer as delivered", err);
    if (!status && sqlite3_changes(j->db) > 0) {
        take_off(&j->stats.n_undelivered, 1);
        j->stats.n_kept++;
    }
    return status;
}

kvq_status journal_delivered(journal *j, int64_t row, kvq_error *err) {
    lock(j);
    kvq_status status = j->retain_ms > 0 ? keep_delivered(j, row, err) : delete_row(j, row, err);
    unlock(j);
    return status;
}

kvq_status journal_drop(journal *j, int64_t row, kvq_error *err) {
    lock(j);
    kvq_status status = delete_row(j, row, err);
    unlock(j);
    return status;
}

kvq_status journal_prune(journal *j, int64_t now_ms, kvq_error *err) {
    lock(j);
    kvq_status status = KVQ_OK;
    if (j->stats.n_kept > 0 && j->retain_ms < now_ms)
        status = forget(j, SUM_OLD, DELETE_OLD, now_ms - j->retain_ms, "forgetting answers", err);
    unlock(j);
    return status;
}

/* ---- names ----------------------------------------------------------------------------------------------- */

static kvq_status recall(journal *j, const char *key, char **ret, kvq_error *err) {
    sqlite3_stmt *s = j->statements[RECALL];
    bind_text(s, 1, key);
    int rc = step(s);
    if (rc == SQLITE_DONE) return KVQ_NOT_FOUND;
    if (rc != SQLITE_ROW) return db_fail(j, "recalling a name", err);
    char *copy = strdup(column_text(s, 0));
    (void)sqlite3_reset(s);
    if (!copy) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for a name of the journal");
    *ret = copy;
    return KVQ_OK;
}

static kvq_status remember(journal *j, const char *key, const char *value, kvq_error *err) {
    sqlite3_stmt *s = j->statements[REMEMBER];
    bind_text(s, 1, key);
    bind_text(s, 2, value);
    return change(j, s, "remembering a name", err);
}

kvq_status journal_remember(journal *j, const char *key, const char *value, char **ret, kvq_error *err) {
    lock(j);
    kvq_status status = recall(j, key, ret, err);
    if (status == KVQ_NOT_FOUND) {
        status = remember(j, key, value, err);
        if (!status) status = recall(j, key, ret, err);
    }
    unlock(j);
    return status;
}

void journal_get_stats(journal *j, journal_stats *ret) {
    lock(j);
    *ret = j->stats;
    unlock(j);
}

int64_t journal_last_row(journal *j) {
    lock(j);
    sqlite3_stmt *s = j->statements[LAST_ROW];
    int64_t row = step(s) == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    (void)sqlite3_reset(s);
    unlock(j);
    return row;
}
