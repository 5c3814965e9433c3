/* template_internal.h: what the files of the template interpreter share; nobody else includes it. `kvq_tpl_` is short
 * for kvq_template_ and means: internal to these files.
 *
 *   template.c           the public functions: parse, render, the variables a render starts with
 *   template_lex.c       text -> tokens, with Jinja's whitespace control
 *   template_parse.c     tokens -> nodes
 *   template_scope.c     nodes -> bound nodes: which slot a name lives in, which row a filter is
 *   template_eval.c      bound nodes -> output: statements, expressions, macros, loops
 *   template_operate.c   arithmetic, slices; template_call.c: built-ins' arguments, attributes, subscripts
 *   template_value.c     memory, values, comparing, iterating; template_print.c: str, repr, JSON, numbers
 *   template_text.c      Unicode: case, classes; template_format.c: '%' and str.format
 *   template_filters.c, template_tests.c, template_methods.c, template_globals.c     tables, one row per name
 *
 * The language is Jinja2's as transformers sets it up: a sandbox with immutable values, trim_blocks, lstrip_blocks,
 * loop controls. Where Python shows through (repr, unpacking, generators, Markup) it shows here too, for the templates
 * in use were written against it; tests/live/compare_templates.py holds the two side by side. Known differences:
 * integers are 64 bits (overflow is an error), template inheritance is not there.
 *
 * One way to fail: kvq_tpl_fail jumps to the setjmp in template.c, as Lua does. All memory but the output buffer is in
 * one arena that the caller of the setjmp owns, so nothing can leak on the way, and the code between reads like the
 * language it implements. A run's steps, depth, bytes and output are counted, and each has a limit below. */
#ifndef KVQ_TEMPLATE_INTERNAL_H
#define KVQ_TEMPLATE_INTERNAL_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "template.h"

/* ---- limits: no template and no input can take more ------------------------------------------------------------ */

#define KVQ_TPL_MAX_SOURCE_BYTES ((size_t)4 << 20)
#define KVQ_TPL_MAX_ARENA_BYTES ((size_t)192 << 20)
#define KVQ_TPL_MAX_OUTPUT_BYTES ((size_t)48 << 20)
#define KVQ_TPL_MAX_STEPS 30000000  /* about a second of looping */
#define KVQ_TPL_MAX_PARSE_DEPTH 200 /* nested tags, brackets and prefixes: each level is up to a dozen C frames */
#define KVQ_TPL_MAX_DEPTH 800       /* nested nodes and values; 200 KiB of stack, four times that with sanitizers */
#define KVQ_TPL_MAX_RANGE 100000    /* Jinja's sandbox: items of a range */
#define KVQ_TPL_MAX_PARAMS 8        /* of a built-in filter, test, method or function */

/* ---- values ---------------------------------------------------------------------------------------------------- */

/* clang-format off */
/*    kind        Python's name        len    iter   index  what `as` holds */
#define KVQ_TPL_KINDS(X) \
    X(MISSING,   "missing",            false, false, false) /* no value at all: an argument not given, a slot not set */ \
    X(UNDEFINED, "Undefined",          true,  true,  true)  /* text: the name or hint; flag: reason; owner: kind */ \
    X(NONE,      "NoneType",           false, false, false) \
    X(BOOL,      "bool",               false, false, false) /* boolean */ \
    X(INT,       "int",                false, false, false) /* integer */ \
    X(FLOAT,     "float",              false, false, false) /* real */ \
    X(STRING,    "str",                true,  true,  true)  /* text; flag: it is Markup */ \
    X(LIST,      "list",               true,  true,  true)  /* list */ \
    X(TUPLE,     "tuple",              true,  true,  true)  /* list; flag: a group of groupby */ \
    X(DICT,      "dict",               true,  true,  true)  /* dict */ \
    X(VIEW,      "dict view",          true,  true,  false) /* dict; flag: which view */ \
    X(RANGE,     "range",              true,  true,  true)  /* range */ \
    X(ITERATOR,  "generator",          false, true,  false) /* iterator: used up as it is read */ \
    X(NAMESPACE, "Namespace",          false, false, false) /* dict */ \
    X(MACRO,     "Macro",              false, false, false) /* macro */ \
    X(FUNCTION,  "function",           false, false, false) /* row */ \
    X(METHOD,    "builtin_function_or_method", false, false, false) /* method */ \
    X(LOOP,      "LoopContext",        true,  true,  false) /* loop */ \
    X(CYCLER,    "Cycler",             false, false, false) /* cycler */ \
    X(JOINER,    "Joiner",             false, false, false) /* joiner */
/* clang-format on */

typedef enum kvq_tpl_kind {
#define KVQ_X(kind, name, has_length, iterable, indexed) KVQ_TPL_##kind,
    KVQ_TPL_KINDS(KVQ_X)
#undef KVQ_X
        KVQ_TPL_KIND_COUNT
} kvq_tpl_kind;

typedef struct kvq_tpl_kind_info {
    const char *name;
    bool has_length, iterable, indexed;
} kvq_tpl_kind_info;
extern const kvq_tpl_kind_info kvq_tpl_kind_infos[KVQ_TPL_KIND_COUNT];

/* Valid UTF-8, not terminated; immutable; several strings may share bytes. */
typedef struct kvq_tpl_string {
    const char *bytes;
    size_t n_bytes, n_chars;
} kvq_tpl_string;

typedef struct kvq_tpl_list kvq_tpl_list;
typedef struct kvq_tpl_dict kvq_tpl_dict;
typedef struct kvq_tpl_range kvq_tpl_range;
typedef struct kvq_tpl_iterator kvq_tpl_iterator;
typedef struct kvq_tpl_macro kvq_tpl_macro;
typedef struct kvq_tpl_method kvq_tpl_method;
typedef struct kvq_tpl_loop kvq_tpl_loop;
typedef struct kvq_tpl_cycler kvq_tpl_cycler;
typedef struct kvq_tpl_joiner kvq_tpl_joiner;
typedef struct kvq_tpl_row kvq_tpl_row;
typedef struct kvq_tpl_run kvq_tpl_run;
typedef struct kvq_tpl_node kvq_tpl_node;

typedef struct kvq_tpl_value {
    uint8_t kind, flag, owner;
    union {
        bool boolean;
        int64_t integer;
        double real;
        const kvq_tpl_string *text;
        kvq_tpl_list *list;
        kvq_tpl_dict *dict;
        const kvq_tpl_range *range;
        kvq_tpl_iterator *iterator;
        const kvq_tpl_macro *macro;
        const kvq_tpl_row *row;
        const kvq_tpl_method *method;
        kvq_tpl_loop *loop;
        kvq_tpl_cycler *cycler;
        kvq_tpl_joiner *joiner;
        const void *pointer; /* identity of any of the above */
    } as;
} kvq_tpl_value;

enum { KVQ_TPL_MARKUP = 1 };                                                         /* flag of STRING */
enum { KVQ_TPL_GROUP = 1 };                                                          /* flag of TUPLE */
enum { KVQ_TPL_ITEMS, KVQ_TPL_KEYS, KVQ_TPL_VALUES };                                /* flag of VIEW */
enum { KVQ_TPL_BY_NAME, KVQ_TPL_BY_ATTRIBUTE, KVQ_TPL_BY_ELEMENT, KVQ_TPL_BY_HINT }; /* flag of UNDEFINED */

struct kvq_tpl_list {
    kvq_tpl_value *items;
    size_t n, capacity;
};

typedef struct kvq_tpl_entry {
    kvq_tpl_value key, value;
    uint64_t hash;
} kvq_tpl_entry;

struct kvq_tpl_dict { /* in order of insertion, nothing is ever removed */
    kvq_tpl_entry *entries;
    size_t n, capacity;
    uint32_t *index; /* [n_index] entry + 1, or 0; open addressing; NULL while the dict is small */
    size_t n_index;
};

struct kvq_tpl_range {
    int64_t start, stop, step;
    int64_t n;
};

struct kvq_tpl_iterator {
    bool (*next)(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret);
    kvq_tpl_value source; /* what it walks */
    size_t at;            /* where: item, byte or entry */
    kvq_tpl_iterator *inner;
    void *state; /* of a filter's own next */
};

struct kvq_tpl_method {
    kvq_tpl_value self;
    const kvq_tpl_row *row; /* row->call NULL: refused, reading it gives Undefined */
};

struct kvq_tpl_cycler {
    kvq_tpl_list *items;
    size_t at;
};

struct kvq_tpl_joiner {
    kvq_tpl_value separator;
    bool used;
};

/* ---- the nodes of a parsed template ---------------------------------------------------------------------------- */

/* Where a name's value is: slot of the activation that many functions up. */
typedef struct kvq_tpl_ref {
    int hops, slot;
} kvq_tpl_ref;

/* How a name gets its value when its scope is entered; see template_scope.c. */
typedef enum kvq_tpl_load {
    KVQ_TPL_LOAD_PARAM,
    KVQ_TPL_LOAD_RESOLVE,
    KVQ_TPL_LOAD_ALIAS,
    KVQ_TPL_LOAD_UNSET
} kvq_tpl_load;

typedef struct kvq_tpl_symbol {
    const kvq_tpl_string *name;
    kvq_tpl_load load;
    bool stored;
    int slot;
    kvq_tpl_ref outer; /* ALIAS: copied from there */
} kvq_tpl_symbol;

/* A function is what Python would compile to one: the template, a macro, a caller, a recursive loop, a loop's filter.
 * Scopes inside share its slots. */
typedef struct kvq_tpl_function {
    int n_slots;
} kvq_tpl_function;

typedef struct kvq_tpl_scope {
    struct kvq_tpl_scope *parent;
    kvq_tpl_function *function;
    bool starts_function;
    kvq_tpl_symbol *symbols;
    int n_symbols, capacity;
} kvq_tpl_scope;

typedef struct kvq_tpl_nodes {
    kvq_tpl_node **at;
    int n, capacity;
} kvq_tpl_nodes;

/* clang-format off */
/*    kind          a           b          c         items       body      more                     others */
#define KVQ_TPL_NODES(X) \
    X(CONST)     /*                                                                                 value */ \
    X(NAME)      /*                                                                                 name, ref; flag: stored */ \
    X(NAMESPACE_REF) /*                                                                             name, ref, other: attribute */ \
    X(LITERAL)   /*                                  elements                                       op: LIST or TUPLE */ \
    X(DICT)      /*                                  keys                  values */ \
    X(UNARY)     /* operand                                                                         op: token */ \
    X(BINARY)    /* left        right                                                               op: token */ \
    X(AND)       /* left        right */ \
    X(OR)        /* left        right */ \
    X(NOT)       /* operand */ \
    X(CONCAT)    /*                                  parts */ \
    X(COMPARE)   /* left                             others                                         ops: one token each */ \
    X(CONDITION) /* test        then       else */ \
    X(ATTRIBUTE) /* object                                                                          name */ \
    X(ITEM)      /* object      subscript */ \
    X(SLICE)     /* start       stop       step      (each may be NULL) */ \
    X(CALL)      /* callee                           arguments             keyword values           names, star, star_star */ \
    X(FILTER)    /* operand (NULL: a block's text)   as CALL                                        name, row */ \
    X(TEST)      /* operand                          as CALL                                        name, row */ \
    X(DATA)      /*                                                                                 value */ \
    X(OUTPUT)    /* expression */ \
    X(FOR)       /* target      iterable   test                  body      else                     scopes; flag: recursive */ \
    X(IF)        /* test                                         body      else */ \
    X(SET)       /* target      value */ \
    X(SET_BLOCK) /* target      filter                           body                               scope */ \
    X(MACRO)     /*                                  parameters  body      defaults of the last     name, ref, scope, takes */ \
    X(CALL_BLOCK) /* call                            parameters  body      defaults                 scope, takes */ \
    X(FILTER_BLOCK) /* filter                                    body                               scope */ \
    X(WITH)      /*                                  targets     body      values                   scope */ \
    X(GENERATION) /*                                             body                               scope */ \
    X(BREAK) \
    X(CONTINUE)
/* clang-format on */

typedef enum kvq_tpl_node_kind {
#define KVQ_X(kind) KVQ_TPL_NODE_##kind,
    KVQ_TPL_NODES(KVQ_X)
#undef KVQ_X
        KVQ_TPL_NODE_COUNT
} kvq_tpl_node_kind;

struct kvq_tpl_node {
    uint8_t kind, op;
    bool flag;
    bool takes_caller, takes_kwargs, takes_varargs; /* MACRO, CALL_BLOCK, GENERATION: special names its body reads */
    int line;
    const kvq_tpl_string *name, *other;
    kvq_tpl_value value;
    kvq_tpl_node *a, *b, *c;
    kvq_tpl_nodes items, body, more;
    const kvq_tpl_string **names; /* [more.n] of keyword arguments */
    const uint8_t *ops;           /* [items.n] of COMPARE */
    kvq_tpl_node *star, *star_star;
    kvq_tpl_ref ref;
    kvq_tpl_ref special[3]; /* MACRO, CALL_BLOCK, GENERATION: slots of caller, kwargs, varargs; FOR: [0] of loop */
    const kvq_tpl_row *row;
    kvq_tpl_scope *scope, *else_scope, *test_scope;
};

struct kvq_template {
    struct kvq_tpl_chunk *chunks; /* everything below lies in them */
    kvq_tpl_nodes body;
    kvq_tpl_scope *scope;
};

/* ---- a run: one parse or one render ---------------------------------------------------------------------------- */

typedef struct kvq_tpl_chunk {
    struct kvq_tpl_chunk *next;
    size_t n_bytes, used_bytes;
} kvq_tpl_chunk;

/* The variables of one function while it runs. Closures keep it, so it lies in the arena. */
typedef struct kvq_tpl_activation {
    struct kvq_tpl_activation *outer;
    kvq_tpl_value slots[];
} kvq_tpl_activation;

struct kvq_tpl_run {
    jmp_buf failed;
    kvq_status status;
    kvq_error *err;
    kvq_tpl_chunk *chunks;
    size_t arena_bytes;
    int line, depth;
    int64_t steps;

    /* Text is made at the end of this one buffer: remember its length, put, take the rest as a string (kvq_tpl_take).
     * What is left at the end is the output. */
    char *out;
    size_t n_out, out_capacity;

    kvq_tpl_activation *activation;
    kvq_tpl_value block_text; /* of the filter or set block whose filters are about to run */
    kvq_tpl_dict *variables;  /* of the render and the built-in functions */
    int64_t now_s;
    uint64_t hash_seed; /* of its dicts */
};

struct kvq_tpl_macro {
    const kvq_tpl_node *node;
    const kvq_tpl_string *name; /* NULL: a caller */
    kvq_tpl_activation *outer;
};

struct kvq_tpl_loop {
    const kvq_tpl_node *node;
    kvq_tpl_activation *outer; /* for a recursive call */
    kvq_tpl_value iterable;
    kvq_tpl_iterator *iterator;
    int64_t index0, depth0, length;                /* length -1: not known yet */
    kvq_tpl_value current, before, after, changed; /* MISSING: none */
};

/* ---- memory, failing (template_value.c) ------------------------------------------------------------------------ */

void kvq_tpl_fail(kvq_tpl_run *r, kvq_status code, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));
void *kvq_tpl_alloc(kvq_tpl_run *r, size_t n_bytes);
void *kvq_tpl_alloc_array(kvq_tpl_run *r, size_t n, size_t item_bytes);
void kvq_tpl_free_chunks(kvq_tpl_chunk *c);
void kvq_tpl_charge(kvq_tpl_run *r, size_t steps); /* work done; fails past the limit */
void kvq_tpl_enter(kvq_tpl_run *r);                /* one level deeper; fails past the limit */
void kvq_tpl_leave(kvq_tpl_run *r);

/* Writing text. */
void kvq_tpl_put(kvq_tpl_run *r, const char *bytes, size_t n);
void kvq_tpl_put_text(kvq_tpl_run *r, const char *terminated);
void kvq_tpl_put_char(kvq_tpl_run *r, char c);
void kvq_tpl_put_point(kvq_tpl_run *r, int32_t code_point);
void kvq_tpl_put_fill(kvq_tpl_run *r, const kvq_tpl_string *fill, int64_t n);
kvq_tpl_value kvq_tpl_take(kvq_tpl_run *r, size_t mark); /* what was put since n_out was mark, as a string */

/* ---- values (template_value.c) --------------------------------------------------------------------------------- */

extern const kvq_tpl_value kvq_tpl_missing, kvq_tpl_none, kvq_tpl_empty;
kvq_tpl_value kvq_tpl_bool(bool b);
kvq_tpl_value kvq_tpl_int(int64_t i);
kvq_tpl_value kvq_tpl_real(double d);
kvq_tpl_value kvq_tpl_text(kvq_tpl_run *r, const char *bytes, size_t n_bytes); /* bytes borrowed, valid UTF-8 */
kvq_tpl_value kvq_tpl_copy_text(kvq_tpl_run *r, const char *bytes, size_t n_bytes);
kvq_tpl_value kvq_tpl_literal(kvq_tpl_run *r, const char *terminated); /* borrowed */
kvq_tpl_value kvq_tpl_string_value(const kvq_tpl_string *s);
kvq_tpl_value kvq_tpl_undefined(int reason, kvq_tpl_kind owner, const kvq_tpl_string *name);
kvq_tpl_value kvq_tpl_undefined_hint(kvq_tpl_run *r, const char *hint); /* borrowed */
void kvq_tpl_fail_undefined(kvq_tpl_run *r, kvq_tpl_value undefined) __attribute__((noreturn));
const char *kvq_tpl_type_name(kvq_tpl_value v);

kvq_tpl_list *kvq_tpl_list_new(kvq_tpl_run *r, size_t capacity);
void kvq_tpl_list_push(kvq_tpl_run *r, kvq_tpl_list *l, kvq_tpl_value v);
kvq_tpl_value kvq_tpl_list_value(kvq_tpl_list *l);
kvq_tpl_value kvq_tpl_tuple_value(kvq_tpl_list *l);
kvq_tpl_value kvq_tpl_pair(kvq_tpl_run *r, kvq_tpl_value a, kvq_tpl_value b);

kvq_tpl_dict *kvq_tpl_dict_new(kvq_tpl_run *r);
kvq_tpl_value kvq_tpl_dict_value(kvq_tpl_dict *d);
void kvq_tpl_dict_set(kvq_tpl_run *r, kvq_tpl_dict *d, kvq_tpl_value key, kvq_tpl_value v);
bool kvq_tpl_dict_find(kvq_tpl_run *r, const kvq_tpl_dict *d, kvq_tpl_value key, kvq_tpl_value *ret);
bool kvq_tpl_dict_find_text(kvq_tpl_run *r, const kvq_tpl_dict *d, const kvq_tpl_string *key, kvq_tpl_value *ret);
void kvq_tpl_dict_merge(kvq_tpl_run *r, kvq_tpl_dict *d, kvq_tpl_value from); /* as Python's dict(from) */
bool kvq_tpl_hashable(kvq_tpl_run *r, kvq_tpl_value v);

bool kvq_tpl_truth(kvq_tpl_run *r, kvq_tpl_value v);
bool kvq_tpl_is_number(kvq_tpl_value v);  /* bool, int, float */
bool kvq_tpl_is_integer(kvq_tpl_value v); /* bool, int */
int64_t kvq_tpl_as_int(kvq_tpl_value v);
double kvq_tpl_as_real(kvq_tpl_value v);
bool kvq_tpl_equal(kvq_tpl_run *r, kvq_tpl_value a, kvq_tpl_value b);
typedef enum kvq_tpl_order { KVQ_TPL_LT, KVQ_TPL_LE, KVQ_TPL_GT, KVQ_TPL_GE } kvq_tpl_order;
bool kvq_tpl_compare(kvq_tpl_run *r, kvq_tpl_order order, kvq_tpl_value a, kvq_tpl_value b);
bool kvq_tpl_same(kvq_tpl_run *r, kvq_tpl_value a, kvq_tpl_value b); /* Python's `is` */
bool kvq_tpl_contains(kvq_tpl_run *r, kvq_tpl_value container, kvq_tpl_value v);
int64_t kvq_tpl_length(kvq_tpl_run *r, kvq_tpl_value v);
bool kvq_tpl_string_equal(const kvq_tpl_string *a, const kvq_tpl_string *b);
bool kvq_tpl_string_is(const kvq_tpl_string *a, const char *terminated);

kvq_tpl_iterator *kvq_tpl_iterate(kvq_tpl_run *r, kvq_tpl_value v); /* fails if it cannot be */
kvq_tpl_iterator *kvq_tpl_iterator_new(kvq_tpl_run *r, bool (*next)(kvq_tpl_run *, kvq_tpl_iterator *, kvq_tpl_value *),
                                       void *state, kvq_tpl_iterator *inner);
bool kvq_tpl_next(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret);
kvq_tpl_value kvq_tpl_iterator_value(kvq_tpl_iterator *it);
kvq_tpl_list *kvq_tpl_collect(kvq_tpl_run *r, kvq_tpl_value v); /* list(v) */
int64_t kvq_tpl_range_at(const kvq_tpl_range *range, int64_t i);

/* ---- text (template_text.c) ------------------------------------------------------------------------------------ */

size_t kvq_tpl_char_bytes(const char *at);                                          /* of the character there */
int32_t kvq_tpl_decode(const char *at);                                             /* the character there */
size_t kvq_tpl_char_offset(kvq_tpl_run *r, const kvq_tpl_string *s, size_t i_char); /* bytes before it */
size_t kvq_tpl_count_chars(const char *bytes, size_t n_bytes);
bool kvq_tpl_is_valid_utf8(const char *bytes, size_t n_bytes);
kvq_tpl_value kvq_tpl_mend_utf8(kvq_tpl_run *r, const char *bytes,
                                size_t n_bytes); /* a copy, U+FFFD for what is not UTF-8 */
bool kvq_tpl_is_space(int32_t c);                /* Python's str.isspace */
bool kvq_tpl_is_line_end(int32_t c);
bool kvq_tpl_is_word(int32_t c); /* \w */
bool kvq_tpl_is_alpha(int32_t c);
bool kvq_tpl_is_decimal(int32_t c);
bool kvq_tpl_is_digit(int32_t c);
bool kvq_tpl_is_alnum(int32_t c);
bool kvq_tpl_is_printable(int32_t c);
bool kvq_tpl_is_upper(int32_t c);
bool kvq_tpl_is_lower(int32_t c);
bool kvq_tpl_is_cased(int32_t c);
typedef enum kvq_tpl_case { KVQ_TPL_UPPER, KVQ_TPL_LOWER, KVQ_TPL_TITLE } kvq_tpl_case;
/* Puts the character at byte `at` of s in another case; lower looks around it for the final sigma. */
void kvq_tpl_put_case(kvq_tpl_run *r, kvq_tpl_case to, const kvq_tpl_string *s, size_t at);
kvq_tpl_value kvq_tpl_change_case(kvq_tpl_run *r, kvq_tpl_case to, const kvq_tpl_string *s);
/* Strips white space, or the characters in chars, at either end. */
kvq_tpl_value kvq_tpl_strip(kvq_tpl_run *r, const kvq_tpl_string *s, const kvq_tpl_string *chars, bool left,
                            bool right);
/* First occurrence of needle at or after byte `from` (last one before byte `to`): byte offset or SIZE_MAX. */
size_t kvq_tpl_find(kvq_tpl_run *r, const kvq_tpl_string *s, const kvq_tpl_string *needle, size_t from, size_t to);
size_t kvq_tpl_find_last(kvq_tpl_run *r, const kvq_tpl_string *s, const kvq_tpl_string *needle, size_t from, size_t to);
kvq_tpl_value kvq_tpl_replace(kvq_tpl_run *r, const kvq_tpl_string *s, const kvq_tpl_string *old,
                              const kvq_tpl_string *by, int64_t count);
kvq_tpl_list *kvq_tpl_split_lines(kvq_tpl_run *r, const kvq_tpl_string *s, bool keep_ends);
kvq_tpl_value kvq_tpl_escape(kvq_tpl_run *r, const kvq_tpl_string *s); /* for HTML; Markup */

/* ---- printing (template_print.c) ------------------------------------------------------------------------------- */

void kvq_tpl_put_str(kvq_tpl_run *r, kvq_tpl_value v);
void kvq_tpl_put_repr(kvq_tpl_run *r, kvq_tpl_value v);
kvq_tpl_value kvq_tpl_str(kvq_tpl_run *r, kvq_tpl_value v);      /* str(v): Markup is lost */
kvq_tpl_value kvq_tpl_soft_str(kvq_tpl_run *r, kvq_tpl_value v); /* v itself if it is a string */
kvq_tpl_value kvq_tpl_repr(kvq_tpl_run *r, kvq_tpl_value v);
void kvq_tpl_put_int(kvq_tpl_run *r, int64_t i);
void kvq_tpl_put_real(kvq_tpl_run *r, double d); /* shortest text that reads back the same */
void kvq_tpl_put_fixed(kvq_tpl_run *r, char conversion, int precision, double d); /* conversion e, f or g */
bool kvq_tpl_parse_real(const char *bytes, size_t n_bytes, double *ret);          /* Python's float(str) */
bool kvq_tpl_parse_int(const char *bytes, size_t n_bytes, int base, int64_t *ret, bool *ret_overflow);
typedef struct kvq_tpl_json_options {
    bool ensure_ascii, sort_keys;
    const kvq_tpl_string *indent; /* NULL: one line */
    const kvq_tpl_string *item_separator, *key_separator;
} kvq_tpl_json_options;
void kvq_tpl_put_json(kvq_tpl_run *r, kvq_tpl_value v, const kvq_tpl_json_options *options);

/* '%' with a tuple, dict or single value; str.format. */
typedef struct kvq_tpl_args kvq_tpl_args;
kvq_tpl_value kvq_tpl_percent(kvq_tpl_run *r, kvq_tpl_value format, kvq_tpl_value values);
kvq_tpl_value kvq_tpl_format(kvq_tpl_run *r, kvq_tpl_value format, const kvq_tpl_args *args);

/* ---- built-in names: rows of four tables ----------------------------------------------------------------------- */

struct kvq_tpl_args {
    kvq_tpl_value *items;
    size_t n;
    const kvq_tpl_string **names; /* of the keyword arguments */
    kvq_tpl_value *values;
    size_t n_names;
};

/* What a built-in gets: self (the filtered or tested value, the method's object), and its parameters bound by name,
 * MISSING where not given. Rows without a parameter list read args themselves. */
typedef struct kvq_tpl_call {
    kvq_tpl_value self;
    kvq_tpl_value arg[KVQ_TPL_MAX_PARAMS];
    const kvq_tpl_args *args;
} kvq_tpl_call;

/* params: names parted by spaces, "-name" cannot be given by keyword; NULL: takes anything. call NULL: the name is real
 * but refused (mutation, methods) or not supported. */
struct kvq_tpl_row {
    const char *name;
    kvq_tpl_value (*call)(kvq_tpl_run *r, kvq_tpl_call *c);
    int n_required;
    const char *params;
    bool not_supported; /* Jinja2 has it, we do not; only where call is NULL */
};

const kvq_tpl_row *kvq_tpl_filter_find(const kvq_tpl_string *name); /* NULL if absent */
const kvq_tpl_row *kvq_tpl_test_find(const kvq_tpl_string *name);
const kvq_tpl_row *kvq_tpl_method_find(kvq_tpl_kind kind, const kvq_tpl_string *name);
void kvq_tpl_add_globals(kvq_tpl_run *r, kvq_tpl_dict *variables);

/* ---- calling (template_call.c) --------------------------------------------------------------------------------- */

kvq_tpl_value kvq_tpl_call_row(kvq_tpl_run *r, const char *what, const kvq_tpl_row *row, kvq_tpl_value self,
                               const kvq_tpl_args *args);
kvq_tpl_value kvq_tpl_call_value(kvq_tpl_run *r, kvq_tpl_value callee, const kvq_tpl_args *args);
kvq_tpl_value kvq_tpl_call_filter(kvq_tpl_run *r, kvq_tpl_value name, kvq_tpl_value self, const kvq_tpl_args *args);
bool kvq_tpl_call_test(kvq_tpl_run *r, kvq_tpl_value name, kvq_tpl_value self, const kvq_tpl_args *args);
bool kvq_tpl_is_callable(kvq_tpl_value v);

/* environment.getattr, environment.getitem; attribute alone (no item), for the filter attr. */
kvq_tpl_value kvq_tpl_get_attribute(kvq_tpl_run *r, kvq_tpl_value object, const kvq_tpl_string *name);
kvq_tpl_value kvq_tpl_get_item(kvq_tpl_run *r, kvq_tpl_value object, kvq_tpl_value subscript);
bool kvq_tpl_attribute(kvq_tpl_run *r, kvq_tpl_value object, const kvq_tpl_string *name, kvq_tpl_value *ret);

/* ---- operators (template_operate.c) ---------------------------------------------------------------------------- */

kvq_tpl_value kvq_tpl_binary(kvq_tpl_run *r, int token, kvq_tpl_value a, kvq_tpl_value b);
kvq_tpl_value kvq_tpl_negate(kvq_tpl_run *r, kvq_tpl_value v);
kvq_tpl_value kvq_tpl_slice(kvq_tpl_run *r, kvq_tpl_value object, kvq_tpl_value start, kvq_tpl_value stop,
                            kvq_tpl_value step);

/* ---- evaluating (template_eval.c), for calls ------------------------------------------------------------------- */

kvq_tpl_value kvq_tpl_call_macro(kvq_tpl_run *r, const kvq_tpl_macro *m, const kvq_tpl_args *args);
kvq_tpl_value kvq_tpl_call_loop(kvq_tpl_run *r, kvq_tpl_loop *loop, kvq_tpl_value iterable);
bool kvq_tpl_loop_attribute(kvq_tpl_run *r, kvq_tpl_loop *loop, const kvq_tpl_string *name, kvq_tpl_value *ret);
bool kvq_tpl_loop_next(kvq_tpl_run *r, kvq_tpl_loop *loop, kvq_tpl_value *ret);
int64_t kvq_tpl_loop_length(kvq_tpl_run *r, kvq_tpl_loop *loop);
void kvq_tpl_run_template(kvq_tpl_run *r, const kvq_template *t);

/* ---- lexing, parsing, binding ---------------------------------------------------------------------------------- */

typedef enum kvq_tpl_token_kind {
    KVQ_TPL_TOKEN_END,
    KVQ_TPL_TOKEN_DATA,
    KVQ_TPL_TOKEN_BLOCK_BEGIN,
    KVQ_TPL_TOKEN_BLOCK_END,
    KVQ_TPL_TOKEN_VARIABLE_BEGIN,
    KVQ_TPL_TOKEN_VARIABLE_END,
    KVQ_TPL_TOKEN_NAME,
    KVQ_TPL_TOKEN_STRING,
    KVQ_TPL_TOKEN_INTEGER,
    KVQ_TPL_TOKEN_REAL,
    KVQ_TPL_TOKEN_ADD,
    KVQ_TPL_TOKEN_SUB,
    KVQ_TPL_TOKEN_DIV,
    KVQ_TPL_TOKEN_FLOORDIV,
    KVQ_TPL_TOKEN_MUL,
    KVQ_TPL_TOKEN_MOD,
    KVQ_TPL_TOKEN_POW,
    KVQ_TPL_TOKEN_TILDE,
    KVQ_TPL_TOKEN_LBRACKET,
    KVQ_TPL_TOKEN_RBRACKET,
    KVQ_TPL_TOKEN_LPAREN,
    KVQ_TPL_TOKEN_RPAREN,
    KVQ_TPL_TOKEN_LBRACE,
    KVQ_TPL_TOKEN_RBRACE,
    KVQ_TPL_TOKEN_EQ,
    KVQ_TPL_TOKEN_NE,
    KVQ_TPL_TOKEN_GT,
    KVQ_TPL_TOKEN_GE,
    KVQ_TPL_TOKEN_LT,
    KVQ_TPL_TOKEN_LE,
    KVQ_TPL_TOKEN_ASSIGN,
    KVQ_TPL_TOKEN_DOT,
    KVQ_TPL_TOKEN_COLON,
    KVQ_TPL_TOKEN_PIPE,
    KVQ_TPL_TOKEN_COMMA,
    KVQ_TPL_TOKEN_SEMICOLON,
    KVQ_TPL_TOKEN_IN,    /* only as an op of COMPARE */
    KVQ_TPL_TOKEN_NOT_IN /* likewise */
} kvq_tpl_token_kind;

typedef struct kvq_tpl_token {
    kvq_tpl_token_kind kind;
    int line;
    kvq_tpl_value value; /* DATA, NAME, STRING: text; INTEGER, REAL: number */
} kvq_tpl_token;

typedef struct kvq_tpl_tokens {
    kvq_tpl_token *at; /* the last one is END */
    size_t n, capacity;
} kvq_tpl_tokens;

void kvq_tpl_lex(kvq_tpl_run *r, const char *source, size_t n_bytes, kvq_tpl_tokens *ret);
const char *kvq_tpl_token_name(kvq_tpl_token_kind kind);
void kvq_tpl_parse(kvq_tpl_run *r, const kvq_tpl_tokens *tokens, kvq_tpl_nodes *ret);
void kvq_tpl_bind(kvq_tpl_run *r, kvq_template *t);
void kvq_tpl_nodes_push(kvq_tpl_run *r, kvq_tpl_nodes *nodes, kvq_tpl_node *node);

#endif
