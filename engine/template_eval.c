/* template_eval.c: runs a bound template: statements put text, expressions give values. Called by template.c (render)
 * and by template_call.c for macros and loops that are called as values. Statements return how they ended, so that
 * break and continue unwind through captures and scopes without a second jump. */
#include <string.h>

#include "template_internal.h"

typedef enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;

static kvq_tpl_value eval(kvq_tpl_run *r, const kvq_tpl_node *node);
static flow exec_all(kvq_tpl_run *r, const kvq_tpl_nodes *nodes);

/* ---- slots and scopes ------------------------------------------------------------------------------------------ */

static kvq_tpl_activation *new_activation(kvq_tpl_run *r, kvq_tpl_activation *outer, const kvq_tpl_scope *scope) {
    kvq_tpl_activation *a =
        kvq_tpl_alloc(r, sizeof *a + (size_t)scope->function->n_slots * sizeof(kvq_tpl_value)); /* zero is MISSING */
    a->outer = outer;
    return a;
}

static kvq_tpl_value *slot(kvq_tpl_run *r, kvq_tpl_ref ref) {
    kvq_tpl_activation *a = r->activation;
    for (int i = 0; i < ref.hops; i++) a = a->outer;
    return &a->slots[ref.slot];
}

static void enter_scope(kvq_tpl_run *r, const kvq_tpl_scope *scope) {
    for (int i = 0; i < scope->n_symbols; i++) {
        const kvq_tpl_symbol *s = &scope->symbols[i];
        kvq_tpl_value v = kvq_tpl_missing;
        if (s->load == KVQ_TPL_LOAD_PARAM) continue;
        if (s->load == KVQ_TPL_LOAD_ALIAS) v = *slot(r, s->outer);
        if (s->load == KVQ_TPL_LOAD_RESOLVE)
            (void)kvq_tpl_dict_find_text(r, r->variables, s->name, &v); /* else MISSING */
        r->activation->slots[s->slot] = v;
    }
}

/* So that a macro that outlives its scope finds nothing there. */
static void leave_scope(kvq_tpl_run *r, const kvq_tpl_scope *scope) {
    for (int i = 0; i < scope->n_symbols; i++) r->activation->slots[scope->symbols[i].slot] = kvq_tpl_missing;
}

/* ---- assigning ------------------------------------------------------------------------------------------------- */

static kvq_tpl_list *unpack(kvq_tpl_run *r, kvq_tpl_value v, int n) {
    kvq_tpl_list *parts = kvq_tpl_list_new(r, (size_t)n);
    kvq_tpl_value item;
    for (kvq_tpl_iterator *it = kvq_tpl_iterate(r, v); kvq_tpl_next(r, it, &item);) {
        if (parts->n == (size_t)n) kvq_tpl_fail(r, KVQ_BAD_FILE, "too many values to unpack, expected %d", n);
        kvq_tpl_list_push(r, parts, item);
    }
    if (parts->n != (size_t)n)
        kvq_tpl_fail(r, KVQ_BAD_FILE, "not enough values to unpack, expected %d, got %zu", n, parts->n);
    return parts;
}

static void assign_attribute(kvq_tpl_run *r, const kvq_tpl_node *target, kvq_tpl_value v) {
    kvq_tpl_value object = *slot(r, target->ref);
    if (object.kind != KVQ_TPL_NAMESPACE)
        kvq_tpl_fail(r, KVQ_BAD_FILE, "only a namespace's attributes can be set, '%.*s' is none",
                     target->name->n_bytes > 80 ? 80 : (int)target->name->n_bytes, target->name->bytes);
    if (target->other->bytes[0] == '_')
        kvq_tpl_fail(r, KVQ_BAD_FILE, "a namespace's attribute must not begin with '_'");
    kvq_tpl_dict_set(r, object.as.dict, kvq_tpl_string_value(target->other), v);
}

static void assign(kvq_tpl_run *r, const kvq_tpl_node *target, kvq_tpl_value v) {
    if (target->kind == KVQ_TPL_NODE_NAME) {
        *slot(r, target->ref) = v;
    } else if (target->kind == KVQ_TPL_NODE_NAMESPACE_REF) {
        assign_attribute(r, target, v);
    } else {
        kvq_tpl_list *parts = unpack(r, v, target->items.n);
        for (int i = 0; i < target->items.n; i++) assign(r, target->items.at[i], parts->items[i]);
    }
}

/* As assign, for a loop's filter, whose function has slots of its own for the loop's targets. Gives back what the loop
 * then sees: Python's filter function yields tuple targets as new tuples. */
static kvq_tpl_value assign_params(kvq_tpl_run *r, const kvq_tpl_scope *scope, const kvq_tpl_node *target,
                                   kvq_tpl_value v) {
    if (target->kind == KVQ_TPL_NODE_NAME) {
        for (int i = 0; i < scope->n_symbols; i++)
            if (kvq_tpl_string_equal(scope->symbols[i].name, target->name))
                r->activation->slots[scope->symbols[i].slot] = v;
        return v;
    }
    kvq_tpl_list *parts = unpack(r, v, target->items.n);
    for (int i = 0; i < target->items.n; i++)
        parts->items[i] = assign_params(r, scope, target->items.at[i], parts->items[i]);
    return kvq_tpl_tuple_value(parts);
}

/* ---- loops ----------------------------------------------------------------------------------------------------- */

typedef struct loop_filter {
    const kvq_tpl_node *node;
    kvq_tpl_activation *activation;
} loop_filter;

static bool next_filtered(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    const loop_filter *f = it->state;
    kvq_tpl_activation *caller = r->activation;
    kvq_tpl_value item;
    bool found = false;
    while (!found && kvq_tpl_next(r, it->inner, &item)) {
        r->activation = f->activation;
        *ret = assign_params(r, f->node->test_scope, f->node->a, item);
        found = kvq_tpl_truth(r, eval(r, f->node->c));
        r->activation = caller;
    }
    return found;
}

/* outer: the activation the loop's expressions are bound to. */
static kvq_tpl_value filter_items(kvq_tpl_run *r, const kvq_tpl_node *node, kvq_tpl_activation *outer,
                                  kvq_tpl_value items) {
    loop_filter *f = kvq_tpl_alloc(r, sizeof *f);
    kvq_tpl_activation *caller = r->activation;
    f->node = node;
    f->activation = r->activation = new_activation(r, outer, node->test_scope);
    enter_scope(r, node->test_scope);
    r->activation = caller;
    return kvq_tpl_iterator_value(kvq_tpl_iterator_new(r, next_filtered, f, kvq_tpl_iterate(r, items)));
}

bool kvq_tpl_loop_next(kvq_tpl_run *r, kvq_tpl_loop *loop, kvq_tpl_value *ret) {
    if (loop->after.kind != KVQ_TPL_MISSING) {
        *ret = loop->after;
        loop->after = kvq_tpl_missing;
    } else if (!kvq_tpl_next(r, loop->iterator, ret)) {
        return false;
    }
    loop->index0++;
    loop->before = loop->current;
    loop->current = *ret;
    return true;
}

static bool peek(kvq_tpl_run *r, kvq_tpl_loop *loop) {
    kvq_tpl_value item;
    if (loop->after.kind != KVQ_TPL_MISSING) return true;
    if (!kvq_tpl_next(r, loop->iterator, &item)) return false;
    loop->after = item; /* not directly: a next that finds nothing may have tried some */
    return true;
}

/* Of a generator: by reading it to its end. */
int64_t kvq_tpl_loop_length(kvq_tpl_run *r, kvq_tpl_loop *loop) {
    if (loop->length >= 0) return loop->length;
    if (kvq_tpl_kind_infos[loop->iterable.kind].has_length) {
        loop->length = kvq_tpl_length(r, loop->iterable);
    } else {
        kvq_tpl_list *rest = kvq_tpl_collect(r, kvq_tpl_iterator_value(loop->iterator));
        loop->iterator = kvq_tpl_iterate(r, kvq_tpl_list_value(rest));
        loop->length = (int64_t)rest->n + loop->index0 + 1 + (loop->after.kind != KVQ_TPL_MISSING);
    }
    return loop->length;
}

static kvq_tpl_value loop_last(kvq_tpl_run *r, kvq_tpl_loop *l) {
    return kvq_tpl_bool(!peek(r, l));
}
static kvq_tpl_value loop_first(kvq_tpl_run *r, kvq_tpl_loop *l) {
    return (void)r, kvq_tpl_bool(l->index0 == 0);
}
static kvq_tpl_value loop_index(kvq_tpl_run *r, kvq_tpl_loop *l) {
    return (void)r, kvq_tpl_int(l->index0 + 1);
}
static kvq_tpl_value loop_index0(kvq_tpl_run *r, kvq_tpl_loop *l) {
    return (void)r, kvq_tpl_int(l->index0);
}
static kvq_tpl_value loop_depth(kvq_tpl_run *r, kvq_tpl_loop *l) {
    return (void)r, kvq_tpl_int(l->depth0 + 1);
}
static kvq_tpl_value loop_depth0(kvq_tpl_run *r, kvq_tpl_loop *l) {
    return (void)r, kvq_tpl_int(l->depth0);
}
static kvq_tpl_value loop_length(kvq_tpl_run *r, kvq_tpl_loop *l) {
    return kvq_tpl_int(kvq_tpl_loop_length(r, l));
}

static kvq_tpl_value loop_revindex(kvq_tpl_run *r, kvq_tpl_loop *l) {
    return kvq_tpl_int(kvq_tpl_loop_length(r, l) - l->index0);
}

static kvq_tpl_value loop_revindex0(kvq_tpl_run *r, kvq_tpl_loop *l) {
    return kvq_tpl_int(kvq_tpl_loop_length(r, l) - l->index0 - 1);
}

static kvq_tpl_value loop_previtem(kvq_tpl_run *r, kvq_tpl_loop *l) {
    return l->index0 == 0 ? kvq_tpl_undefined_hint(r, "there is no previous item") : l->before;
}

static kvq_tpl_value loop_nextitem(kvq_tpl_run *r, kvq_tpl_loop *l) {
    return peek(r, l) ? l->after : kvq_tpl_undefined_hint(r, "there is no next item");
}

bool kvq_tpl_loop_attribute(kvq_tpl_run *r, kvq_tpl_loop *loop, const kvq_tpl_string *name, kvq_tpl_value *ret) {
    static const struct {
        const char *name;
        kvq_tpl_value (*get)(kvq_tpl_run *r, kvq_tpl_loop *l);
    } attributes[] = {{"index", loop_index},         {"index0", loop_index0},     {"first", loop_first},
                      {"last", loop_last},           {"length", loop_length},     {"revindex", loop_revindex},
                      {"revindex0", loop_revindex0}, {"previtem", loop_previtem}, {"nextitem", loop_nextitem},
                      {"depth", loop_depth},         {"depth0", loop_depth0}};
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        if (!kvq_tpl_string_is(name, attributes[i].name)) continue;
        *ret = attributes[i].get(r, loop);
        return true;
    }
    return false;
}

static kvq_tpl_loop *new_loop(kvq_tpl_run *r, const kvq_tpl_node *node, kvq_tpl_activation *outer, kvq_tpl_value items,
                              int64_t depth0) {
    kvq_tpl_loop *loop = kvq_tpl_alloc(r, sizeof *loop);
    if (node->c) items = filter_items(r, node, outer, items);
    *loop = (kvq_tpl_loop){.node = node,
                           .outer = outer,
                           .iterable = items,
                           .iterator = kvq_tpl_iterate(r, items),
                           .index0 = -1,
                           .depth0 = depth0,
                           .length = -1};
    return loop;
}

/* The body for each item, then perhaps the else. As in Jinja2 a turn that ends by continue does not count as one. */
static flow run_loop(kvq_tpl_run *r, kvq_tpl_loop *loop) {
    const kvq_tpl_node *node = loop->node;
    kvq_tpl_value item;
    bool ran = false;
    while (kvq_tpl_loop_next(r, loop, &item)) {
        assign(r, node->a, item);
        if (node->special[0].slot >= 0)
            r->activation->slots[node->special[0].slot] = (kvq_tpl_value){.kind = KVQ_TPL_LOOP, .as.loop = loop};
        enter_scope(r, node->scope);
        flow ended = exec_all(r, &node->body);
        if (ended == FLOW_BREAK) break;
        if (ended == FLOW_ON) ran = true;
    }
    leave_scope(r, node->scope);
    if (ran || node->more.n == 0) return FLOW_ON;
    enter_scope(r, node->else_scope);
    flow ended = exec_all(r, &node->more);
    leave_scope(r, node->else_scope);
    return ended;
}

/* A recursive loop is a function of its items that gives text. */
static kvq_tpl_value run_recursive(kvq_tpl_run *r, const kvq_tpl_node *node, kvq_tpl_activation *outer,
                                   kvq_tpl_value items, int64_t depth0) {
    kvq_tpl_activation *caller = r->activation;
    size_t mark = r->n_out;
    r->activation = new_activation(r, outer, node->scope);
    (void)run_loop(r, new_loop(r, node, outer, items, depth0)); /* nothing can break out of it: checked when bound */
    r->activation = caller;
    return kvq_tpl_take(r, mark);
}

kvq_tpl_value kvq_tpl_call_loop(kvq_tpl_run *r, kvq_tpl_loop *loop, kvq_tpl_value iterable) {
    if (!loop->node->flag) kvq_tpl_fail(r, KVQ_BAD_FILE, "a loop can call itself only with the 'recursive' marker");
    return run_recursive(r, loop->node, loop->outer, iterable, loop->depth0 + 1);
}

/* ---- macros ---------------------------------------------------------------------------------------------------- */

/* The keyword argument of that name, marked as used, or MISSING. */
static kvq_tpl_value take_keyword(kvq_tpl_run *r, const kvq_tpl_args *args, bool *used, const kvq_tpl_string *name) {
    kvq_tpl_charge(r, args->n_names / 4);
    for (size_t i = 0; i < args->n_names; i++) {
        if (used[i] || !kvq_tpl_string_equal(args->names[i], name)) continue;
        used[i] = true;
        return args->values[i];
    }
    return kvq_tpl_missing;
}

static void bind_specials(kvq_tpl_run *r, const kvq_tpl_node *node, kvq_tpl_activation *a, const kvq_tpl_args *args,
                          bool *used) {
    static const kvq_tpl_string caller_name = {"caller", 6, 6};
    if (node->takes_caller) {
        kvq_tpl_value caller = take_keyword(r, args, used, &caller_name);
        bool given = caller.kind != KVQ_TPL_MISSING && caller.kind != KVQ_TPL_NONE;
        a->slots[node->special[0].slot] = given ? caller : kvq_tpl_undefined_hint(r, "No caller defined");
    }
    kvq_tpl_dict *rest = kvq_tpl_dict_new(r);
    for (size_t i = 0; i < args->n_names; i++) {
        if (used[i]) continue;
        if (!node->takes_kwargs)
            kvq_tpl_fail(r, KVQ_BAD_FILE, "the macro takes no keyword argument '%.*s'",
                         args->names[i]->n_bytes > 80 ? 80 : (int)args->names[i]->n_bytes, args->names[i]->bytes);
        kvq_tpl_dict_set(r, rest, kvq_tpl_string_value(args->names[i]), args->values[i]);
    }
    if (node->takes_kwargs) a->slots[node->special[1].slot] = kvq_tpl_dict_value(rest);
    if (!node->takes_varargs && args->n > (size_t)node->items.n)
        kvq_tpl_fail(r, KVQ_BAD_FILE, "the macro takes not more than %d arguments, got %zu", node->items.n, args->n);
    kvq_tpl_list *extra = kvq_tpl_list_new(r, 0);
    for (size_t i = (size_t)node->items.n; i < args->n; i++) kvq_tpl_list_push(r, extra, args->items[i]);
    if (node->takes_varargs) a->slots[node->special[2].slot] = kvq_tpl_tuple_value(extra);
}

/* Defaults are evaluated at the call, inside the macro, and may read the parameters before them. */
static void fill_defaults(kvq_tpl_run *r, const kvq_tpl_node *node) {
    for (int i = 0; i < node->items.n; i++) {
        const kvq_tpl_node *param = node->items.at[i];
        int i_default = i - (node->items.n - node->more.n);
        if (slot(r, param->ref)->kind != KVQ_TPL_MISSING) continue;
        if (i_default >= 0) {
            kvq_tpl_value v = eval(r, node->more.at[i_default]);
            *slot(r, param->ref) = v;
            continue;
        }
        size_t mark = r->n_out;
        kvq_tpl_put_text(r, "parameter '");
        kvq_tpl_put(r, param->name->bytes, param->name->n_bytes);
        kvq_tpl_put_text(r, "' was not provided");
        *slot(r, param->ref) = kvq_tpl_undefined(KVQ_TPL_BY_HINT, KVQ_TPL_NONE, kvq_tpl_take(r, mark).as.text);
    }
}

kvq_tpl_value kvq_tpl_call_macro(kvq_tpl_run *r, const kvq_tpl_macro *m, const kvq_tpl_args *args) {
    const kvq_tpl_node *node = m->node;
    kvq_tpl_activation *caller = r->activation, *a = new_activation(r, m->outer, node->scope);
    bool *used = kvq_tpl_alloc(r, args->n_names + 1);
    for (int i = 0; i < node->items.n; i++) {
        const kvq_tpl_node *param = node->items.at[i];
        a->slots[param->ref.slot] = (size_t)i < args->n ? args->items[i] : take_keyword(r, args, used, param->name);
    }
    bind_specials(r, node, a, args, used);
    size_t mark = r->n_out;
    kvq_tpl_enter(r);
    r->activation = a;
    enter_scope(r, node->scope);
    fill_defaults(r, node);
    (void)exec_all(r, &node->body); /* nothing can break out of it: checked when bound */
    r->activation = caller;
    kvq_tpl_leave(r);
    return kvq_tpl_take(r, mark);
}

/* ---- calls ----------------------------------------------------------------------------------------------------- */

static void push_name(kvq_tpl_run *r, kvq_tpl_args *args, const kvq_tpl_string *name, kvq_tpl_value v) {
    kvq_tpl_charge(r, args->n_names / 4);
    for (size_t i = 0; i < args->n_names; i++)
        if (kvq_tpl_string_equal(args->names[i], name))
            kvq_tpl_fail(r, KVQ_BAD_FILE, "got several values for the keyword argument '%.*s'",
                         name->n_bytes > 80 ? 80 : (int)name->n_bytes, name->bytes);
    args->names[args->n_names] = name;
    args->values[args->n_names++] = v;
}

static void push_star(kvq_tpl_run *r, kvq_tpl_args *args, kvq_tpl_value v) {
    kvq_tpl_list *all = kvq_tpl_list_new(r, args->n);
    for (size_t i = 0; i < args->n; i++) kvq_tpl_list_push(r, all, args->items[i]);
    kvq_tpl_value item;
    for (kvq_tpl_iterator *it = kvq_tpl_iterate(r, v); kvq_tpl_next(r, it, &item);) kvq_tpl_list_push(r, all, item);
    args->items = all->items;
    args->n = all->n;
}

/* caller: added as a keyword argument, or MISSING. */
static kvq_tpl_args eval_args(kvq_tpl_run *r, const kvq_tpl_node *node, kvq_tpl_value caller) {
    kvq_tpl_args args = {0};
    const kvq_tpl_dict *more = NULL;
    args.items = kvq_tpl_alloc_array(r, (size_t)node->items.n, sizeof *args.items);
    for (int i = 0; i < node->items.n; i++) args.items[args.n++] = eval(r, node->items.at[i]);
    if (node->star) push_star(r, &args, eval(r, node->star));
    if (node->star_star) {
        kvq_tpl_value v = eval(r, node->star_star);
        if (v.kind != KVQ_TPL_DICT) kvq_tpl_fail(r, KVQ_BAD_FILE, "the argument after ** must be a mapping");
        more = v.as.dict;
    }
    size_t n_names = (size_t)node->more.n + (more ? more->n : 0) + 1;
    if (n_names == 1 && caller.kind == KVQ_TPL_MISSING) return args;
    args.names = kvq_tpl_alloc_array(r, n_names, sizeof *args.names);
    args.values = kvq_tpl_alloc_array(r, n_names, sizeof *args.values);
    for (int i = 0; i < node->more.n; i++) push_name(r, &args, node->names[i], eval(r, node->more.at[i]));
    for (size_t i = 0; more && i < more->n; i++) {
        if (more->entries[i].key.kind != KVQ_TPL_STRING) kvq_tpl_fail(r, KVQ_BAD_FILE, "keywords must be strings");
        push_name(r, &args, more->entries[i].key.as.text, more->entries[i].value);
    }
    if (caller.kind != KVQ_TPL_MISSING) push_name(r, &args, kvq_tpl_literal(r, "caller").as.text, caller);
    return args;
}

static kvq_tpl_value eval_call_with(kvq_tpl_run *r, const kvq_tpl_node *node, kvq_tpl_value caller) {
    kvq_tpl_value callee = eval(r, node->a);
    kvq_tpl_args args = eval_args(r, node, caller);
    return kvq_tpl_call_value(r, callee, &args);
}

static kvq_tpl_value eval_call(kvq_tpl_run *r, const kvq_tpl_node *node) {
    return eval_call_with(r, node, kvq_tpl_missing);
}

static kvq_tpl_value call_bound_row(kvq_tpl_run *r, const kvq_tpl_node *node, const char *what, kvq_tpl_value self) {
    kvq_tpl_args args = eval_args(r, node, kvq_tpl_missing);
    if (!node->row)
        kvq_tpl_fail(r, KVQ_BAD_FILE, "no %s is named '%.*s'", what,
                     node->name->n_bytes > 80 ? 80 : (int)node->name->n_bytes, node->name->bytes);
    return kvq_tpl_call_row(r, what, node->row, self, &args);
}

static kvq_tpl_value eval_filter(kvq_tpl_run *r, const kvq_tpl_node *node) {
    return call_bound_row(r, node, "filter", node->a ? eval(r, node->a) : r->block_text);
}

static kvq_tpl_value eval_test(kvq_tpl_run *r, const kvq_tpl_node *node) {
    return call_bound_row(r, node, "test", eval(r, node->a));
}

/* ---- expressions ----------------------------------------------------------------------------------------------- */

static kvq_tpl_value eval_const(kvq_tpl_run *r, const kvq_tpl_node *node) {
    return (void)r, node->value;
}

static kvq_tpl_value eval_name(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_value v = *slot(r, node->ref);
    return v.kind == KVQ_TPL_MISSING ? kvq_tpl_undefined(KVQ_TPL_BY_NAME, KVQ_TPL_NONE, node->name) : v;
}

static kvq_tpl_value eval_literal(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_list *l = kvq_tpl_list_new(r, (size_t)node->items.n);
    for (int i = 0; i < node->items.n; i++) kvq_tpl_list_push(r, l, eval(r, node->items.at[i]));
    return node->op == KVQ_TPL_LIST ? kvq_tpl_list_value(l) : kvq_tpl_tuple_value(l);
}

static kvq_tpl_value eval_dict(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_dict *d = kvq_tpl_dict_new(r);
    for (int i = 0; i < node->items.n; i++) {
        kvq_tpl_value key = eval(r, node->items.at[i]);
        kvq_tpl_dict_set(r, d, key, eval(r, node->more.at[i]));
    }
    return kvq_tpl_dict_value(d);
}

static kvq_tpl_value eval_unary(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_value v = eval(r, node->a);
    if (node->op == KVQ_TPL_TOKEN_SUB) return kvq_tpl_negate(r, v);
    if (v.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, v);
    if (!kvq_tpl_is_number(v)) kvq_tpl_fail(r, KVQ_BAD_FILE, "'+' does not work on '%s'", kvq_tpl_type_name(v));
    return v.kind == KVQ_TPL_BOOL ? kvq_tpl_int(kvq_tpl_as_int(v)) : v;
}

static kvq_tpl_value eval_binary(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_value left = eval(r, node->a);
    return kvq_tpl_binary(r, node->op, left, eval(r, node->b));
}

static kvq_tpl_value eval_and(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_value left = eval(r, node->a);
    return kvq_tpl_truth(r, left) ? eval(r, node->b) : left;
}

static kvq_tpl_value eval_or(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_value left = eval(r, node->a);
    return kvq_tpl_truth(r, left) ? left : eval(r, node->b);
}

static kvq_tpl_value eval_not(kvq_tpl_run *r, const kvq_tpl_node *node) {
    return kvq_tpl_bool(!kvq_tpl_truth(r, eval(r, node->a)));
}

static kvq_tpl_value eval_concat(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_list *parts = kvq_tpl_list_new(r, (size_t)node->items.n); /* all first: evaluating them puts text too */
    for (int i = 0; i < node->items.n; i++) kvq_tpl_list_push(r, parts, eval(r, node->items.at[i]));
    size_t mark = r->n_out;
    for (size_t i = 0; i < parts->n; i++) kvq_tpl_put_str(r, parts->items[i]);
    return kvq_tpl_take(r, mark);
}

static bool holds(kvq_tpl_run *r, uint8_t op, kvq_tpl_value left, kvq_tpl_value right) {
    switch (op) {
    case KVQ_TPL_TOKEN_EQ:
        return kvq_tpl_equal(r, left, right);
    case KVQ_TPL_TOKEN_NE:
        return !kvq_tpl_equal(r, left, right);
    case KVQ_TPL_TOKEN_IN:
        return kvq_tpl_contains(r, right, left);
    case KVQ_TPL_TOKEN_NOT_IN:
        return !kvq_tpl_contains(r, right, left);
    case KVQ_TPL_TOKEN_LT:
        return kvq_tpl_compare(r, KVQ_TPL_LT, left, right);
    case KVQ_TPL_TOKEN_LE:
        return kvq_tpl_compare(r, KVQ_TPL_LE, left, right);
    case KVQ_TPL_TOKEN_GT:
        return kvq_tpl_compare(r, KVQ_TPL_GT, left, right);
    default:
        return kvq_tpl_compare(r, KVQ_TPL_GE, left, right);
    }
}

static kvq_tpl_value eval_compare(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_value left = eval(r, node->a);
    for (int i = 0; i < node->items.n; i++) {
        kvq_tpl_value right = eval(r, node->items.at[i]);
        if (!holds(r, node->ops[i], left, right)) return kvq_tpl_bool(false);
        left = right;
    }
    return kvq_tpl_bool(true);
}

static kvq_tpl_value eval_condition(kvq_tpl_run *r, const kvq_tpl_node *node) {
    if (kvq_tpl_truth(r, eval(r, node->a))) return eval(r, node->b);
    if (node->c) return eval(r, node->c);
    return kvq_tpl_undefined_hint(r, "the inline if-expression evaluated to false and has no else");
}

static kvq_tpl_value eval_attribute(kvq_tpl_run *r, const kvq_tpl_node *node) {
    return kvq_tpl_get_attribute(r, eval(r, node->a), node->name);
}

static kvq_tpl_value eval_bound(kvq_tpl_run *r, const kvq_tpl_node *node) {
    return node ? eval(r, node) : kvq_tpl_none;
}

static kvq_tpl_value eval_item(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_value object = eval(r, node->a);
    if (node->b->kind != KVQ_TPL_NODE_SLICE) return kvq_tpl_get_item(r, object, eval(r, node->b));
    kvq_tpl_value start = eval_bound(r, node->b->a), stop = eval_bound(r, node->b->b), step = eval_bound(r, node->b->c);
    return kvq_tpl_slice(r, object, start, stop, step);
}

/* NULL: not an expression. */
static kvq_tpl_value (*const evaluators[KVQ_TPL_NODE_COUNT])(kvq_tpl_run *r, const kvq_tpl_node *node) = {
    [KVQ_TPL_NODE_CONST] = eval_const,
    [KVQ_TPL_NODE_NAME] = eval_name,
    [KVQ_TPL_NODE_LITERAL] = eval_literal,
    [KVQ_TPL_NODE_DICT] = eval_dict,
    [KVQ_TPL_NODE_UNARY] = eval_unary,
    [KVQ_TPL_NODE_BINARY] = eval_binary,
    [KVQ_TPL_NODE_AND] = eval_and,
    [KVQ_TPL_NODE_OR] = eval_or,
    [KVQ_TPL_NODE_NOT] = eval_not,
    [KVQ_TPL_NODE_CONCAT] = eval_concat,
    [KVQ_TPL_NODE_COMPARE] = eval_compare,
    [KVQ_TPL_NODE_CONDITION] = eval_condition,
    [KVQ_TPL_NODE_ATTRIBUTE] = eval_attribute,
    [KVQ_TPL_NODE_ITEM] = eval_item,
    [KVQ_TPL_NODE_CALL] = eval_call,
    [KVQ_TPL_NODE_FILTER] = eval_filter,
    [KVQ_TPL_NODE_TEST] = eval_test,
};

static kvq_tpl_value eval(kvq_tpl_run *r, const kvq_tpl_node *node) {
    int line = r->line;
    r->line = node->line;
    kvq_tpl_charge(r, 1);
    kvq_tpl_enter(r);
    kvq_tpl_value v = evaluators[node->kind](r, node);
    kvq_tpl_leave(r);
    r->line = line;
    return v;
}

/* ---- statements ------------------------------------------------------------------------------------------------ */

static flow exec_data(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_put_str(r, node->value);
    return FLOW_ON;
}

static flow exec_output(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_put_str(r, eval(r, node->a));
    return FLOW_ON;
}

static flow exec_for(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_value items = eval(r, node->b);
    if (!node->flag) return run_loop(r, new_loop(r, node, r->activation, items, 0));
    kvq_tpl_put_str(r, run_recursive(r, node, r->activation, items, 0));
    return FLOW_ON;
}

static flow exec_if(kvq_tpl_run *r, const kvq_tpl_node *node) {
    return exec_all(r, kvq_tpl_truth(r, eval(r, node->a)) ? &node->body : &node->more);
}

static flow exec_set(kvq_tpl_run *r, const kvq_tpl_node *node) {
    assign(r, node->a, eval(r, node->b));
    return FLOW_ON;
}

/* The body's text through the filters, or as it is; MISSING if the body was left by break or continue. */
static flow capture(kvq_tpl_run *r, const kvq_tpl_node *node, const kvq_tpl_node *filters, kvq_tpl_value *ret) {
    size_t mark = r->n_out;
    enter_scope(r, node->scope);
    flow ended = exec_all(r, &node->body);
    *ret = kvq_tpl_take(r, mark);
    if (ended == FLOW_ON && filters) {
        r->block_text = *ret;
        *ret = eval(r, filters);
    }
    leave_scope(r, node->scope);
    return ended;
}

static flow exec_set_block(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_value text;
    flow ended = capture(r, node, node->b, &text);
    if (ended == FLOW_ON) assign(r, node->a, text);
    return ended;
}

static flow exec_filter_block(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_value text;
    flow ended = capture(r, node, node->a, &text);
    if (ended == FLOW_ON) kvq_tpl_put_str(r, text);
    return ended;
}

static kvq_tpl_value new_macro(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_macro *m = kvq_tpl_alloc(r, sizeof *m);
    *m = (kvq_tpl_macro){.node = node, .name = node->name, .outer = r->activation};
    return (kvq_tpl_value){.kind = KVQ_TPL_MACRO, .as.macro = m};
}

static flow exec_macro(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_value macro = new_macro(r, node);
    *slot(r, node->ref) = macro;
    return FLOW_ON;
}

static flow exec_call_block(kvq_tpl_run *r, const kvq_tpl_node *node) {
    kvq_tpl_put_str(r, eval_call_with(r, node->a, new_macro(r, node)));
    return FLOW_ON;
}

static flow exec_with(kvq_tpl_run *r, const kvq_tpl_node *node) {
    enter_scope(r, node->scope);
    for (int i = 0; i < node->items.n; i++) assign(r, node->items.at[i], eval(r, node->more.at[i]));
    flow ended = exec_all(r, &node->body);
    leave_scope(r, node->scope);
    return ended;
}

/* transformers makes a caller of the body and calls it, so that it can note where the text is. */
static flow exec_generation(kvq_tpl_run *r, const kvq_tpl_node *node) {
    static const kvq_tpl_args none = {0};
    kvq_tpl_put_str(r, kvq_tpl_call_value(r, new_macro(r, node), &none));
    return FLOW_ON;
}

static flow exec_break(kvq_tpl_run *r, const kvq_tpl_node *node) {
    return (void)r, (void)node, FLOW_BREAK;
}

static flow exec_continue(kvq_tpl_run *r, const kvq_tpl_node *node) {
    return (void)r, (void)node, FLOW_CONTINUE;
}

static flow (*const executors[KVQ_TPL_NODE_COUNT])(kvq_tpl_run *r, const kvq_tpl_node *node) = {
    [KVQ_TPL_NODE_DATA] = exec_data,
    [KVQ_TPL_NODE_OUTPUT] = exec_output,
    [KVQ_TPL_NODE_FOR] = exec_for,
    [KVQ_TPL_NODE_IF] = exec_if,
    [KVQ_TPL_NODE_SET] = exec_set,
    [KVQ_TPL_NODE_SET_BLOCK] = exec_set_block,
    [KVQ_TPL_NODE_MACRO] = exec_macro,
    [KVQ_TPL_NODE_CALL_BLOCK] = exec_call_block,
    [KVQ_TPL_NODE_FILTER_BLOCK] = exec_filter_block,
    [KVQ_TPL_NODE_WITH] = exec_with,
    [KVQ_TPL_NODE_GENERATION] = exec_generation,
    [KVQ_TPL_NODE_BREAK] = exec_break,
    [KVQ_TPL_NODE_CONTINUE] = exec_continue,
};

static flow exec(kvq_tpl_run *r, const kvq_tpl_node *node) {
    r->line = node->line;
    kvq_tpl_charge(r, 1);
    kvq_tpl_enter(r);
    flow ended = executors[node->kind](r, node);
    kvq_tpl_leave(r);
    return ended;
}

static flow exec_all(kvq_tpl_run *r, const kvq_tpl_nodes *nodes) {
    flow ended = FLOW_ON;
    for (int i = 0; i < nodes->n && ended == FLOW_ON; i++) ended = exec(r, nodes->at[i]);
    return ended;
}

void kvq_tpl_run_template(kvq_tpl_run *r, const kvq_template *t) {
    r->activation = new_activation(r, NULL, t->scope);
    enter_scope(r, t->scope);
    (void)exec_all(r, &t->body); /* nothing is left to break out of */
}
