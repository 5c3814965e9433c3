/* template_scope.c: binds a parsed template: every name to the slot it lives in, every filter and test to its row.
 * Called by template.c once per load, after template_parse.c.
 *
 * Names in Jinja2 are bound where they are written, not where they run, and the rules show in templates (a variable set
 * in a loop is gone after it; a name set anywhere in a scope is that scope's own from its start). They are those of
 * jinja2's idtracking.py: a scope is the template, a loop's body, its else, its filter, a macro, a caller, with, a set
 * or filter block; an if is none. On entering a scope (for loops: each turn) each of its own names gets a value:
 *
 *   PARAM    nothing: the loop, the call or with has set it
 *   RESOLVE  the render's variable of that name: it is read here and belongs to no outer scope
 *   ALIAS    the outer scope's value: it is set here as well
 *   UNSET    nothing: it is set here first
 *
 * A name set only in branches of an if may not be set at all, so it starts as ALIAS or RESOLVE. */
#include <string.h>

#include "template_internal.h"

typedef struct binder {
    kvq_tpl_run *r;
    kvq_tpl_scope *scope;
    bool soft;      /* within an if: a filter that does not exist fails only when it is reached, as in Jinja2 */
    bool breakable; /* within a loop, in the same function */
    bool in_loop;   /* within a loop: nothing may be named loop */
} binder;

/* ---- symbols --------------------------------------------------------------------------------------------------- */

static kvq_tpl_symbol *own_symbol(kvq_tpl_run *r, const kvq_tpl_scope *s, const kvq_tpl_string *name) {
    kvq_tpl_charge(r, 1 + (size_t)s->n_symbols / 4);
    for (int i = 0; i < s->n_symbols; i++)
        if (kvq_tpl_string_equal(s->symbols[i].name, name)) return &s->symbols[i];
    return NULL;
}

/* Where name is as seen from inside s; false if no scope has it. */
static bool find_ref(kvq_tpl_run *r, const kvq_tpl_scope *s, const kvq_tpl_string *name, kvq_tpl_ref *ret) {
    int hops = 0;
    for (; s; s = s->parent) {
        const kvq_tpl_symbol *symbol = own_symbol(r, s, name);
        if (symbol) {
            *ret = (kvq_tpl_ref){hops, symbol->slot};
            return true;
        }
        hops += s->starts_function;
    }
    return false;
}

static bool find_outer(kvq_tpl_run *r, const kvq_tpl_scope *s, const kvq_tpl_string *name, kvq_tpl_ref *ret) {
    if (!s->parent || !find_ref(r, s->parent, name, ret)) return false;
    ret->hops += s->starts_function;
    return true;
}

static kvq_tpl_symbol *add_symbol(kvq_tpl_run *r, kvq_tpl_scope *s, const kvq_tpl_string *name, kvq_tpl_load load) {
    if (s->n_symbols == s->capacity) {
        int capacity = s->capacity ? s->capacity * 2 : 4;
        kvq_tpl_symbol *symbols = kvq_tpl_alloc_array(r, (size_t)capacity, sizeof *symbols);
        if (s->n_symbols) memcpy(symbols, s->symbols, (size_t)s->n_symbols * sizeof *symbols);
        s->symbols = symbols;
        s->capacity = capacity;
    }
    kvq_tpl_symbol *symbol = &s->symbols[s->n_symbols++];
    *symbol = (kvq_tpl_symbol){.name = name, .load = load, .slot = s->function->n_slots++};
    return symbol;
}

static kvq_tpl_symbol *declare_param(kvq_tpl_run *r, kvq_tpl_scope *s, const kvq_tpl_string *name) {
    kvq_tpl_symbol *symbol = own_symbol(r, s, name);
    if (!symbol) symbol = add_symbol(r, s, name, KVQ_TPL_LOAD_PARAM);
    symbol->load = KVQ_TPL_LOAD_PARAM;
    symbol->stored = true;
    return symbol;
}

static void declare_load(kvq_tpl_run *r, kvq_tpl_scope *s, const kvq_tpl_string *name) {
    kvq_tpl_ref ref;
    if (!find_ref(r, s, name, &ref)) add_symbol(r, s, name, KVQ_TPL_LOAD_RESOLVE);
}

static void declare_store(kvq_tpl_run *r, kvq_tpl_scope *s, const kvq_tpl_string *name) {
    kvq_tpl_symbol *symbol = own_symbol(r, s, name);
    if (!symbol) {
        kvq_tpl_ref outer;
        bool found = find_outer(r, s, name, &outer);
        symbol = add_symbol(r, s, name, found ? KVQ_TPL_LOAD_ALIAS : KVQ_TPL_LOAD_UNSET);
        if (found) symbol->outer = outer;
    }
    symbol->stored = true;
}

/* ---- declaring what a scope's statements read and set ---------------------------------------------------------- */

static void declare(kvq_tpl_run *r, kvq_tpl_scope *s, const kvq_tpl_node *node);

static void declare_all(kvq_tpl_run *r, kvq_tpl_scope *s, const kvq_tpl_nodes *nodes) {
    for (int i = 0; i < nodes->n; i++) declare(r, s, nodes->at[i]);
}

static void declare_params(kvq_tpl_run *r, kvq_tpl_scope *s, const kvq_tpl_node *target) {
    if (target->kind == KVQ_TPL_NODE_NAME) declare_param(r, s, target->name);
    for (int i = 0; target->kind == KVQ_TPL_NODE_LITERAL && i < target->items.n; i++)
        declare_params(r, s, target->items.at[i]);
}

static void declare_if(kvq_tpl_run *r, kvq_tpl_scope *s, const kvq_tpl_node *node) {
    declare(r, s, node->a);
    int n_before = s->n_symbols;
    kvq_tpl_charge(r, 1 + (size_t)n_before / 8);
    bool *stored_before = kvq_tpl_alloc(r, (size_t)n_before + 1);
    for (int i = 0; i < n_before; i++) stored_before[i] = s->symbols[i].stored;
    declare_all(r, s, &node->body);
    declare_all(r, s, &node->more);
    for (int i = 0; i < s->n_symbols; i++) {
        kvq_tpl_symbol *symbol = &s->symbols[i];
        if (!symbol->stored || (i < n_before && stored_before[i])) continue;
        bool found = find_outer(r, s, symbol->name, &symbol->outer);
        symbol->load = found ? KVQ_TPL_LOAD_ALIAS : KVQ_TPL_LOAD_RESOLVE;
    }
}

/* Expressions hold no scopes and no stores but of targets, so all their parts count alike. */
static void declare_expression(kvq_tpl_run *r, kvq_tpl_scope *s, const kvq_tpl_node *node) {
    declare(r, s, node->a);
    declare(r, s, node->b);
    declare(r, s, node->c);
    declare_all(r, s, &node->items);
    declare_all(r, s, &node->more);
    declare(r, s, node->star);
    declare(r, s, node->star_star);
}

static void declare(kvq_tpl_run *r, kvq_tpl_scope *s, const kvq_tpl_node *node) {
    if (!node) return;
    kvq_tpl_enter(r);
    switch (node->kind) {
    case KVQ_TPL_NODE_NAME:
        if (node->flag)
            declare_store(r, s, node->name);
        else
            declare_load(r, s, node->name);
        break;
    case KVQ_TPL_NODE_NAMESPACE_REF:
        declare_load(r, s, node->name);
        break;
    case KVQ_TPL_NODE_FOR:
        declare(r, s, node->b);
        break;
    case KVQ_TPL_NODE_IF:
        declare_if(r, s, node);
        break;
    case KVQ_TPL_NODE_SET:
        declare(r, s, node->b);
        declare(r, s, node->a);
        break;
    case KVQ_TPL_NODE_SET_BLOCK:
    case KVQ_TPL_NODE_CALL_BLOCK:
    case KVQ_TPL_NODE_FILTER_BLOCK:
        declare(r, s, node->a);
        break;
    case KVQ_TPL_NODE_MACRO:
        declare_store(r, s, node->name);
        break;
    case KVQ_TPL_NODE_WITH:
        declare_all(r, s, &node->more);
        break;
    case KVQ_TPL_NODE_GENERATION:
        break;
    default:
        declare_expression(r, s, node);
    }
    kvq_tpl_leave(r);
}

/* Does the body read this special name before it sets it, at any depth? Jinja2 asks so for loop, caller, kwargs,
 * varargs. */
typedef enum finding { FIND_NOTHING, FIND_LOAD, FIND_STORE } finding;

static finding find_use(kvq_tpl_run *r, const kvq_tpl_node *node, const char *name);

static finding find_use_in(kvq_tpl_run *r, const kvq_tpl_nodes *nodes, const char *name) {
    finding found = FIND_NOTHING;
    for (int i = 0; i < nodes->n && found == FIND_NOTHING; i++) found = find_use(r, nodes->at[i], name);
    return found;
}

static finding find_use(kvq_tpl_run *r, const kvq_tpl_node *node, const char *name) {
    if (!node) return FIND_NOTHING;
    if (node->kind == KVQ_TPL_NODE_NAME && kvq_tpl_string_is(node->name, name))
        return node->flag ? FIND_STORE : FIND_LOAD;
    kvq_tpl_charge(r, 1);
    kvq_tpl_enter(r);
    const kvq_tpl_node *parts[] = {node->a, node->b, node->c, node->star, node->star_star};
    const kvq_tpl_nodes *lists[] = {&node->items, &node->more, &node->body};
    finding found = FIND_NOTHING;
    for (size_t i = 0; i < 5 && found == FIND_NOTHING; i++) found = find_use(r, parts[i], name);
    for (size_t i = 0; i < 3 && found == FIND_NOTHING; i++) found = find_use_in(r, lists[i], name);
    kvq_tpl_leave(r);
    return found;
}

static bool reads(kvq_tpl_run *r, const kvq_tpl_nodes *body, const char *name) {
    return find_use_in(r, body, name) == FIND_LOAD;
}

/* ---- binding --------------------------------------------------------------------------------------------------- */

static void bind(binder b, kvq_tpl_node *node);

static void bind_all(binder b, const kvq_tpl_nodes *nodes) {
    for (int i = 0; i < nodes->n; i++) bind(b, nodes->at[i]);
}

/* parent NULL: the template's own. */
static kvq_tpl_scope *new_scope(kvq_tpl_run *r, kvq_tpl_scope *parent, bool starts_function) {
    kvq_tpl_scope *s = kvq_tpl_alloc(r, sizeof *s);
    s->parent = parent;
    s->starts_function = starts_function || !parent;
    if (parent) s->function = parent->function;
    if (s->starts_function) s->function = kvq_tpl_alloc(r, sizeof *s->function);
    return s;
}

static binder inside(binder b, kvq_tpl_scope *scope, bool breakable) {
    b.scope = scope;
    b.soft = false;
    b.breakable = breakable;
    return b;
}

static void bind_name(binder b, kvq_tpl_node *node) {
    if (node->flag && b.in_loop && kvq_tpl_string_is(node->name, "loop"))
        kvq_tpl_fail(b.r, KVQ_BAD_FILE, "cannot assign to 'loop' within a loop");
    if (!find_ref(b.r, b.scope, node->name, &node->ref)) /* only names that Jinja2 forgets to track, such as a set */
        node->ref =
            (kvq_tpl_ref){0, add_symbol(b.r, b.scope, node->name, KVQ_TPL_LOAD_RESOLVE)->slot}; /* block's filter's */
}

static void bind_parts(binder b, kvq_tpl_node *node) {
    bind(b, node->a);
    bind(b, node->b);
    bind(b, node->c);
    bind_all(b, &node->items);
    bind_all(b, &node->more);
    bind(b, node->star);
    bind(b, node->star_star);
}

static void bind_row(binder b, kvq_tpl_node *node) {
    bool filter = node->kind == KVQ_TPL_NODE_FILTER;
    const char *what = filter ? "filter" : "test";
    node->row = filter ? kvq_tpl_filter_find(node->name) : kvq_tpl_test_find(node->name);
    int n = node->name->n_bytes > 80 ? 80 : (int)node->name->n_bytes;
    if (!node->row && !b.soft) kvq_tpl_fail(b.r, KVQ_BAD_FILE, "no %s is named '%.*s'", what, n, node->name->bytes);
    if (node->row && node->row->not_supported)
        kvq_tpl_fail(b.r, KVQ_UNSUPPORTED, "the %s '%.*s' is not supported", what, n, node->name->bytes);
    bind_parts(b, node);
}

static void bind_for(binder b, kvq_tpl_node *node) {
    binder inner = b;
    inner.in_loop = true;
    bind(b, node->b);
    node->scope = new_scope(b.r, b.scope, node->flag);
    node->special[0].slot = -1;
    if (node->flag || reads(b.r, &node->body, "loop"))
        node->special[0].slot = declare_param(b.r, node->scope, kvq_tpl_literal(b.r, "loop").as.text)->slot;
    declare_params(b.r, node->scope, node->a);
    declare_all(b.r, node->scope, &node->body);
    bind(inside(inner, node->scope, true), node->a);
    bind_all(inside(inner, node->scope, true), &node->body);
    if (node->more.n) {
        node->else_scope = new_scope(b.r, b.scope, false);
        if (node->flag) { /* a recursive loop's else runs inside the loop's function, but sees nothing of the loop */
            node->else_scope->function = node->scope->function;
            node->else_scope->starts_function = true;
        }
        declare_all(b.r, node->else_scope, &node->more);
        bind_all(inside(inner, node->else_scope, b.breakable && !node->flag), &node->more);
    }
    if (!node->c) return;
    node->test_scope = new_scope(b.r, b.scope, true);
    declare_params(b.r, node->test_scope, node->a);
    declare(b.r, node->test_scope, node->c);
    bind(inside(inner, node->test_scope, false), node->c);
}

static void check_caller_has_default(kvq_tpl_run *r, const kvq_tpl_node *node) {
    for (int i = 0; i < node->items.n - node->more.n; i++)
        if (kvq_tpl_string_is(node->items.at[i]->name, "caller"))
            kvq_tpl_fail(r, KVQ_BAD_FILE, "a macro's parameter 'caller' needs a default");
}

static void bind_macro(binder b, kvq_tpl_node *node) {
    static const char *const specials[] = {"caller", "kwargs", "varargs"};
    bool *const takes[] = {&node->takes_caller, &node->takes_kwargs, &node->takes_varargs};
    if (node->kind == KVQ_TPL_NODE_CALL_BLOCK) bind(b, node->a);
    if (node->kind == KVQ_TPL_NODE_MACRO && !find_ref(b.r, b.scope, node->name, &node->ref)) return; /* cannot be */
    node->scope = new_scope(b.r, b.scope, true);
    for (int i = 0; i < node->items.n; i++) declare_param(b.r, node->scope, node->items.at[i]->name);
    for (int i = 0; i < 3; i++) {
        const kvq_tpl_string *name = kvq_tpl_literal(b.r, specials[i]).as.text;
        if (!reads(b.r, &node->body, specials[i])) continue;
        if (own_symbol(b.r, node->scope, name)) { /* a parameter of that name takes its place */
            if (i == 0) check_caller_has_default(b.r, node);
            continue;
        }
        *takes[i] = true;
        node->special[i].slot = declare_param(b.r, node->scope, name)->slot;
    }
    declare_all(b.r, node->scope, &node->more);
    declare_all(b.r, node->scope, &node->body);
    bind_all(inside(b, node->scope, false), &node->items);
    bind_all(inside(b, node->scope, false), &node->more);
    bind_all(inside(b, node->scope, false), &node->body);
}

static void bind_scope(binder b, kvq_tpl_node *node) {
    if (node->kind == KVQ_TPL_NODE_WITH) bind_all(b, &node->more);
    if (node->kind == KVQ_TPL_NODE_SET_BLOCK) bind(b, node->a);
    node->scope = new_scope(b.r, b.scope, false);
    for (int i = 0; i < node->items.n; i++) declare_params(b.r, node->scope, node->items.at[i]);
    declare_all(b.r, node->scope, &node->body);
    if (node->kind == KVQ_TPL_NODE_FILTER_BLOCK) declare(b.r, node->scope, node->a);
    binder inner = inside(b, node->scope, b.breakable);
    bind_all(inner, &node->items);
    bind_all(inner, &node->body);
    if (node->kind == KVQ_TPL_NODE_FILTER_BLOCK) bind(inner, node->a);
    if (node->kind == KVQ_TPL_NODE_SET_BLOCK) bind(inner, node->b);
}

static void bind_soft(binder b, kvq_tpl_node *node) {
    b.soft = true;
    bind_parts(b, node);
    bind_all(b, &node->body);
}

static void bind_jump(binder b, const kvq_tpl_node *node) {
    if (!b.breakable)
        kvq_tpl_fail(b.r, KVQ_BAD_FILE, "'%s' outside of a loop",
                     node->kind == KVQ_TPL_NODE_BREAK ? "break" : "continue");
}

static void bind(binder b, kvq_tpl_node *node) {
    if (!node) return;
    b.r->line = node->line;
    kvq_tpl_enter(b.r);
    switch (node->kind) {
    case KVQ_TPL_NODE_NAME:
    case KVQ_TPL_NODE_NAMESPACE_REF:
        bind_name(b, node);
        break;
    case KVQ_TPL_NODE_FILTER:
    case KVQ_TPL_NODE_TEST:
        bind_row(b, node);
        break;
    case KVQ_TPL_NODE_IF:
    case KVQ_TPL_NODE_CONDITION:
        bind_soft(b, node);
        break;
    case KVQ_TPL_NODE_FOR:
        bind_for(b, node);
        break;
    case KVQ_TPL_NODE_MACRO:
    case KVQ_TPL_NODE_CALL_BLOCK:
    case KVQ_TPL_NODE_GENERATION:
        bind_macro(b, node);
        break;
    case KVQ_TPL_NODE_SET_BLOCK:
    case KVQ_TPL_NODE_FILTER_BLOCK:
    case KVQ_TPL_NODE_WITH:
        bind_scope(b, node);
        break;
    case KVQ_TPL_NODE_BREAK:
    case KVQ_TPL_NODE_CONTINUE:
        bind_jump(b, node);
        break;
    default:
        bind_parts(b, node);
    }
    kvq_tpl_leave(b.r);
}

void kvq_tpl_bind(kvq_tpl_run *r, kvq_template *t) {
    t->scope = new_scope(r, NULL, true);
    declare_all(r, t->scope, &t->body);
    bind_all((binder){.r = r, .scope = t->scope}, &t->body);
}
