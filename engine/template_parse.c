/* template_parse.c: tokens -> nodes, by recursive descent along Jinja2's grammar. Called by template.c once per load;
 * names are bound to slots and filters to rows afterwards, in template_scope.c. What each node keeps in which field is
 * the table in template_internal.h. */
#include <string.h>

#include "template_internal.h"

typedef struct parser {
    kvq_tpl_run *r;
    const kvq_tpl_token *at; /* never moves past END */
    int depth;
} parser;

void kvq_tpl_nodes_push(kvq_tpl_run *r, kvq_tpl_nodes *nodes, kvq_tpl_node *node) {
    if (nodes->n == nodes->capacity) {
        int capacity = nodes->capacity ? nodes->capacity * 2 : 4;
        kvq_tpl_node **at = kvq_tpl_alloc_array(r, (size_t)capacity, sizeof *at);
        if (nodes->n) memcpy(at, nodes->at, (size_t)nodes->n * sizeof *at);
        nodes->at = at;
        nodes->capacity = capacity;
    }
    nodes->at[nodes->n++] = node;
}

/* ---- tokens ---------------------------------------------------------------------------------------------------- */

static void enter(parser *p) {
    if (++p->depth > KVQ_TPL_MAX_PARSE_DEPTH)
        kvq_tpl_fail(p->r, KVQ_NO_SPACE, "nested more than %d deep", KVQ_TPL_MAX_PARSE_DEPTH);
}

static void leave(parser *p) {
    p->depth--;
}

static bool is(const parser *p, kvq_tpl_token_kind kind) {
    return p->at->kind == kind;
}

static bool token_is_name(const kvq_tpl_token *t, const char *name) {
    return t->kind == KVQ_TPL_TOKEN_NAME && kvq_tpl_string_is(t->value.as.text, name);
}

static bool is_name(const parser *p, const char *name) {
    return token_is_name(p->at, name);
}

static const kvq_tpl_token *next(parser *p) {
    const kvq_tpl_token *t = p->at;
    if (t->kind != KVQ_TPL_TOKEN_END) p->at++;
    p->r->line = p->at->line;
    return t;
}

static bool skip(parser *p, kvq_tpl_token_kind kind) {
    if (!is(p, kind)) return false;
    next(p);
    return true;
}

static bool skip_name(parser *p, const char *name) {
    if (!is_name(p, name)) return false;
    next(p);
    return true;
}

__attribute__((noreturn)) static void fail_here(parser *p, const char *expected) {
    p->r->line = p->at->line;
    if (is(p, KVQ_TPL_TOKEN_NAME)) {
        const kvq_tpl_string *name = p->at->value.as.text;
        int n = name->n_bytes > 80 ? 80 : (int)name->n_bytes;
        kvq_tpl_fail(p->r, KVQ_BAD_FILE, "expected %s, found '%.*s'", expected, n, name->bytes);
    }
    kvq_tpl_fail(p->r, KVQ_BAD_FILE, "expected %s, found %s", expected, kvq_tpl_token_name(p->at->kind));
}

static const kvq_tpl_token *expect(parser *p, kvq_tpl_token_kind kind) {
    if (!is(p, kind)) fail_here(p, kvq_tpl_token_name(kind));
    return next(p);
}

static void expect_name(parser *p, const char *name) {
    if (!skip_name(p, name)) fail_here(p, name);
}

static kvq_tpl_node *new_node(parser *p, kvq_tpl_node_kind kind, int line) {
    kvq_tpl_node *node = kvq_tpl_alloc(p->r, sizeof *node);
    node->kind = (uint8_t)kind;
    node->line = line;
    return node;
}

static kvq_tpl_node *new_two(parser *p, kvq_tpl_node_kind kind, int op, kvq_tpl_node *a, kvq_tpl_node *b, int line) {
    kvq_tpl_node *node = new_node(p, kind, line);
    node->op = (uint8_t)op;
    node->a = a;
    node->b = b;
    return node;
}

static kvq_tpl_node *new_const(parser *p, kvq_tpl_value value, int line) {
    kvq_tpl_node *node = new_node(p, KVQ_TPL_NODE_CONST, line);
    node->value = value;
    return node;
}

/* ---- expressions ----------------------------------------------------------------------------------------------- */

static kvq_tpl_node *parse_condition(parser *p);
static kvq_tpl_node *parse_or(parser *p);
static kvq_tpl_node *parse_unary(parser *p, bool with_filter);
static kvq_tpl_node *parse_filter(parser *p, kvq_tpl_node *operand, bool start_inline);

static kvq_tpl_node *parse_expression(parser *p) {
    return parse_condition(p);
}

typedef struct tuple_options {
    bool names_only;      /* targets: only names and literals are tuple items */
    bool namespaces;      /* a.b is a namespace's attribute */
    bool no_condition;    /* without "x if y else z" */
    bool parentheses;     /* an empty tuple is fine */
    const char *end_name; /* this name ends it */
} tuple_options;

static kvq_tpl_node *parse_tuple(parser *p, tuple_options o);

static kvq_tpl_node *parse_list(parser *p) {
    kvq_tpl_node *node = new_node(p, KVQ_TPL_NODE_LITERAL, p->at->line);
    node->op = KVQ_TPL_LIST;
    expect(p, KVQ_TPL_TOKEN_LBRACKET);
    while (!is(p, KVQ_TPL_TOKEN_RBRACKET)) {
        if (node->items.n) expect(p, KVQ_TPL_TOKEN_COMMA);
        if (is(p, KVQ_TPL_TOKEN_RBRACKET)) break;
        kvq_tpl_nodes_push(p->r, &node->items, parse_expression(p));
    }
    expect(p, KVQ_TPL_TOKEN_RBRACKET);
    return node;
}

static kvq_tpl_node *parse_dict(parser *p) {
    kvq_tpl_node *node = new_node(p, KVQ_TPL_NODE_DICT, p->at->line);
    expect(p, KVQ_TPL_TOKEN_LBRACE);
    while (!is(p, KVQ_TPL_TOKEN_RBRACE)) {
        if (node->items.n) expect(p, KVQ_TPL_TOKEN_COMMA);
        if (is(p, KVQ_TPL_TOKEN_RBRACE)) break;
        kvq_tpl_nodes_push(p->r, &node->items, parse_expression(p));
        expect(p, KVQ_TPL_TOKEN_COLON);
        kvq_tpl_nodes_push(p->r, &node->more, parse_expression(p));
    }
    expect(p, KVQ_TPL_TOKEN_RBRACE);
    return node;
}

static kvq_tpl_node *parse_name(parser *p, bool namespaces) {
    static const struct {
        const char *name;
        int kind, boolean;
    } constants[] = {{"true", KVQ_TPL_BOOL, 1},  {"True", KVQ_TPL_BOOL, 1}, {"false", KVQ_TPL_BOOL, 0},
                     {"False", KVQ_TPL_BOOL, 0}, {"none", KVQ_TPL_NONE, 0}, {"None", KVQ_TPL_NONE, 0}};
    const kvq_tpl_token *t = next(p);
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (kvq_tpl_string_is(t->value.as.text, constants[i].name))
            return new_const(p, constants[i].kind == KVQ_TPL_NONE ? kvq_tpl_none : kvq_tpl_bool(constants[i].boolean),
                             t->line);
    bool reference = namespaces && skip(p, KVQ_TPL_TOKEN_DOT);
    kvq_tpl_node *node = new_node(p, reference ? KVQ_TPL_NODE_NAMESPACE_REF : KVQ_TPL_NODE_NAME, t->line);
    node->name = t->value.as.text;
    if (reference) node->other = expect(p, KVQ_TPL_TOKEN_NAME)->value.as.text;
    return node;
}

static kvq_tpl_node *parse_strings(parser *p) {
    int line = p->at->line;
    kvq_tpl_value first = next(p)->value;
    if (!is(p, KVQ_TPL_TOKEN_STRING)) return new_const(p, first, line);
    size_t mark = p->r->n_out;
    kvq_tpl_put_str(p->r, first);
    while (is(p, KVQ_TPL_TOKEN_STRING)) kvq_tpl_put_str(p->r, next(p)->value);
    return new_const(p, kvq_tpl_take(p->r, mark), line);
}

static kvq_tpl_node *parse_primary(parser *p, bool namespaces) {
    int line = p->at->line;
    switch (p->at->kind) {
    case KVQ_TPL_TOKEN_NAME:
        return parse_name(p, namespaces);
    case KVQ_TPL_TOKEN_STRING:
        return parse_strings(p);
    case KVQ_TPL_TOKEN_INTEGER:
    case KVQ_TPL_TOKEN_REAL:
        return new_const(p, next(p)->value, line);
    case KVQ_TPL_TOKEN_LBRACKET:
        return parse_list(p);
    case KVQ_TPL_TOKEN_LBRACE:
        return parse_dict(p);
    case KVQ_TPL_TOKEN_LPAREN: {
        next(p);
        kvq_tpl_node *node = parse_tuple(p, (tuple_options){.parentheses = true});
        expect(p, KVQ_TPL_TOKEN_RPAREN);
        return node;
    }
    default:
        fail_here(p, "an expression");
    }
}

static kvq_tpl_node *parse_slice_part(parser *p) {
    if (is(p, KVQ_TPL_TOKEN_COLON) || is(p, KVQ_TPL_TOKEN_RBRACKET) || is(p, KVQ_TPL_TOKEN_COMMA)) return NULL;
    return parse_expression(p);
}

static kvq_tpl_node *parse_subscript_item(parser *p) {
    int line = p->at->line;
    kvq_tpl_node *start = is(p, KVQ_TPL_TOKEN_COLON) ? NULL : parse_expression(p);
    if (!skip(p, KVQ_TPL_TOKEN_COLON)) return start;
    kvq_tpl_node *slice = new_node(p, KVQ_TPL_NODE_SLICE, line);
    slice->a = start;
    slice->b = parse_slice_part(p);
    if (skip(p, KVQ_TPL_TOKEN_COLON)) slice->c = parse_slice_part(p);
    return slice;
}

static kvq_tpl_node *parse_brackets(parser *p, kvq_tpl_node *object, int line) {
    kvq_tpl_node *tuple = new_node(p, KVQ_TPL_NODE_LITERAL, line);
    tuple->op = KVQ_TPL_TUPLE;
    while (!is(p, KVQ_TPL_TOKEN_RBRACKET)) {
        if (tuple->items.n) expect(p, KVQ_TPL_TOKEN_COMMA);
        kvq_tpl_nodes_push(p->r, &tuple->items, parse_subscript_item(p));
    }
    expect(p, KVQ_TPL_TOKEN_RBRACKET);
    kvq_tpl_node *subscript = tuple->items.n == 1 ? tuple->items.at[0] : tuple;
    for (int i = 0; tuple->items.n > 1 && i < tuple->items.n; i++)
        if (tuple->items.at[i]->kind == KVQ_TPL_NODE_SLICE)
            kvq_tpl_fail(p->r, KVQ_UNSUPPORTED, "a slice among several subscripts is not supported");
    return new_two(p, KVQ_TPL_NODE_ITEM, 0, object, subscript, line);
}

static kvq_tpl_node *parse_dot(parser *p, kvq_tpl_node *object, int line) {
    if (is(p, KVQ_TPL_TOKEN_INTEGER))
        return new_two(p, KVQ_TPL_NODE_ITEM, 0, object, new_const(p, next(p)->value, line), line);
    if (!is(p, KVQ_TPL_TOKEN_NAME)) fail_here(p, "a name or number after '.'");
    kvq_tpl_node *node = new_node(p, KVQ_TPL_NODE_ATTRIBUTE, line);
    node->a = object;
    node->name = next(p)->value.as.text;
    return node;
}

static void push_keyword(parser *p, kvq_tpl_node *call) {
    const kvq_tpl_string *name = next(p)->value.as.text;
    next(p); /* = */
    kvq_tpl_charge(p->r, (size_t)call->more.n / 4);
    for (int i = 0; i < call->more.n; i++)
        if (kvq_tpl_string_equal(call->names[i], name))
            kvq_tpl_fail(p->r, KVQ_BAD_FILE, "the keyword argument '%.*s' is repeated",
                         name->n_bytes > 80 ? 80 : (int)name->n_bytes, name->bytes);
    const kvq_tpl_string **names = kvq_tpl_alloc_array(p->r, (size_t)call->more.n + 1, sizeof *names);
    if (call->more.n) memcpy(names, call->names, (size_t)call->more.n * sizeof *names);
    names[call->more.n] = name;
    call->names = names;
    kvq_tpl_nodes_push(p->r, &call->more, parse_expression(p));
}

/* One argument: *list, **dict, name=value or a value, in the order Python wants. */
static void parse_argument(parser *p, kvq_tpl_node *call) {
    bool keyword = is(p, KVQ_TPL_TOKEN_NAME) && p->at[1].kind == KVQ_TPL_TOKEN_ASSIGN;
    bool star = is(p, KVQ_TPL_TOKEN_MUL), star_star = is(p, KVQ_TPL_TOKEN_POW);
    bool positional = !keyword && !star && !star_star;
    if (call->star_star || (call->star && (star || positional)) || (positional && call->more.n))
        fail_here(p, "arguments in another order");
    if (star || star_star) {
        next(p);
        *(star ? &call->star : &call->star_star) = parse_expression(p);
    } else if (keyword) {
        push_keyword(p, call);
    } else {
        kvq_tpl_nodes_push(p->r, &call->items, parse_expression(p));
    }
}

static void parse_arguments(parser *p, kvq_tpl_node *call) {
    bool first = true;
    expect(p, KVQ_TPL_TOKEN_LPAREN);
    while (!is(p, KVQ_TPL_TOKEN_RPAREN)) {
        if (!first) expect(p, KVQ_TPL_TOKEN_COMMA);
        if (!first && is(p, KVQ_TPL_TOKEN_RPAREN)) break;
        parse_argument(p, call);
        first = false;
    }
    expect(p, KVQ_TPL_TOKEN_RPAREN);
}

static kvq_tpl_node *parse_call(parser *p, kvq_tpl_node *callee) {
    kvq_tpl_node *node = new_node(p, KVQ_TPL_NODE_CALL, p->at->line);
    node->a = callee;
    parse_arguments(p, node);
    return node;
}

static kvq_tpl_node *parse_postfix(parser *p, kvq_tpl_node *node) {
    for (;;) {
        int line = p->at->line;
        if (skip(p, KVQ_TPL_TOKEN_DOT))
            node = parse_dot(p, node, line);
        else if (skip(p, KVQ_TPL_TOKEN_LBRACKET))
            node = parse_brackets(p, node, line);
        else if (is(p, KVQ_TPL_TOKEN_LPAREN))
            node = parse_call(p, node);
        else
            return node;
    }
}

/* Names of filters and tests may have dots. */
static const kvq_tpl_string *parse_dotted_name(parser *p) {
    const kvq_tpl_string *name = expect(p, KVQ_TPL_TOKEN_NAME)->value.as.text;
    while (skip(p, KVQ_TPL_TOKEN_DOT)) {
        size_t mark = p->r->n_out;
        kvq_tpl_put(p->r, name->bytes, name->n_bytes);
        kvq_tpl_put_char(p->r, '.');
        kvq_tpl_put_str(p->r, expect(p, KVQ_TPL_TOKEN_NAME)->value);
        name = kvq_tpl_take(p->r, mark).as.text;
    }
    return name;
}

/* A chain of filters. start_inline: the first has no '|' before it ({% filter x %}). */
static kvq_tpl_node *parse_filter(parser *p, kvq_tpl_node *operand, bool start_inline) {
    while (start_inline || is(p, KVQ_TPL_TOKEN_PIPE)) {
        if (!start_inline) next(p);
        kvq_tpl_node *node = new_node(p, KVQ_TPL_NODE_FILTER, p->at->line);
        node->name = parse_dotted_name(p);
        node->a = operand;
        if (is(p, KVQ_TPL_TOKEN_LPAREN)) parse_arguments(p, node);
        operand = node;
        start_inline = false;
    }
    return operand;
}

/* A test's argument may stand without parentheses: "x is divisibleby 3". */
static bool starts_bare_argument(const parser *p) {
    switch (p->at->kind) {
    case KVQ_TPL_TOKEN_NAME:
        return !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and");
    case KVQ_TPL_TOKEN_STRING:
    case KVQ_TPL_TOKEN_INTEGER:
    case KVQ_TPL_TOKEN_REAL:
    case KVQ_TPL_TOKEN_LBRACKET:
    case KVQ_TPL_TOKEN_LBRACE:
        return true;
    default:
        return false;
    }
}

static kvq_tpl_node *parse_test(parser *p, kvq_tpl_node *operand) {
    int line = next(p)->line; /* is */
    bool negated = skip_name(p, "not");
    kvq_tpl_node *node = new_node(p, KVQ_TPL_NODE_TEST, line);
    node->a = operand;
    node->name = parse_dotted_name(p);
    if (is(p, KVQ_TPL_TOKEN_LPAREN)) {
        parse_arguments(p, node);
    } else if (starts_bare_argument(p)) {
        if (is_name(p, "is")) kvq_tpl_fail(p->r, KVQ_BAD_FILE, "tests cannot be chained with 'is'");
        kvq_tpl_nodes_push(p->r, &node->items, parse_postfix(p, parse_primary(p, false)));
    }
    return negated ? new_two(p, KVQ_TPL_NODE_NOT, 0, node, NULL, line) : node;
}

static kvq_tpl_node *parse_filters_and_tests(parser *p, kvq_tpl_node *node) {
    for (;;) {
        if (is(p, KVQ_TPL_TOKEN_PIPE))
            node = parse_filter(p, node, false);
        else if (is_name(p, "is"))
            node = parse_test(p, node);
        else if (is(p, KVQ_TPL_TOKEN_LPAREN))
            node = parse_call(p, node);
        else
            return node;
    }
}

static kvq_tpl_node *parse_unary(parser *p, bool with_filter) {
    kvq_tpl_node *node;
    int line = p->at->line;
    enter(p);
    if (is(p, KVQ_TPL_TOKEN_SUB) || is(p, KVQ_TPL_TOKEN_ADD)) {
        int op = (int)next(p)->kind;
        node = new_two(p, KVQ_TPL_NODE_UNARY, op, parse_unary(p, false), NULL, line);
    } else {
        node = parse_primary(p, false);
    }
    node = parse_postfix(p, node);
    if (with_filter) node = parse_filters_and_tests(p, node);
    leave(p);
    return node;
}

static kvq_tpl_node *parse_power(parser *p) {
    int line = p->at->line;
    kvq_tpl_node *left = parse_unary(p, true);
    while (skip(p, KVQ_TPL_TOKEN_POW))
        left = new_two(p, KVQ_TPL_NODE_BINARY, KVQ_TPL_TOKEN_POW, left, parse_unary(p, true), line);
    return left;
}

static kvq_tpl_node *parse_product(parser *p) {
    int line = p->at->line;
    kvq_tpl_node *left = parse_power(p);
    while (is(p, KVQ_TPL_TOKEN_MUL) || is(p, KVQ_TPL_TOKEN_DIV) || is(p, KVQ_TPL_TOKEN_FLOORDIV) ||
           is(p, KVQ_TPL_TOKEN_MOD)) {
        int op = (int)next(p)->kind;
        left = new_two(p, KVQ_TPL_NODE_BINARY, op, left, parse_power(p), line);
    }
    return left;
}

static kvq_tpl_node *parse_concat(parser *p) {
    int line = p->at->line;
    kvq_tpl_node *first = parse_product(p);
    if (!is(p, KVQ_TPL_TOKEN_TILDE)) return first;
    kvq_tpl_node *node = new_node(p, KVQ_TPL_NODE_CONCAT, line);
    kvq_tpl_nodes_push(p->r, &node->items, first);
    while (skip(p, KVQ_TPL_TOKEN_TILDE)) kvq_tpl_nodes_push(p->r, &node->items, parse_product(p));
    return node;
}

static kvq_tpl_node *parse_sum(parser *p) {
    int line = p->at->line;
    kvq_tpl_node *left = parse_concat(p);
    while (is(p, KVQ_TPL_TOKEN_ADD) || is(p, KVQ_TPL_TOKEN_SUB)) {
        int op = (int)next(p)->kind;
        left = new_two(p, KVQ_TPL_NODE_BINARY, op, left, parse_concat(p), line);
    }
    return left;
}

/* The comparison here, skipped, or END if there is none. */
static kvq_tpl_token_kind skip_comparison(parser *p) {
    if (p->at->kind >= KVQ_TPL_TOKEN_EQ && p->at->kind <= KVQ_TPL_TOKEN_LE) return next(p)->kind;
    if (skip_name(p, "in")) return KVQ_TPL_TOKEN_IN;
    if (is_name(p, "not") && token_is_name(p->at + 1, "in")) {
        next(p);
        next(p);
        return KVQ_TPL_TOKEN_NOT_IN;
    }
    return KVQ_TPL_TOKEN_END;
}

static kvq_tpl_node *parse_compare(parser *p) {
    int line = p->at->line;
    kvq_tpl_node *left = parse_sum(p);
    kvq_tpl_token_kind op = skip_comparison(p);
    if (op == KVQ_TPL_TOKEN_END) return left;
    kvq_tpl_node *node = new_two(p, KVQ_TPL_NODE_COMPARE, 0, left, NULL, line);
    for (; op != KVQ_TPL_TOKEN_END; op = skip_comparison(p)) {
        uint8_t *ops = kvq_tpl_alloc(p->r, (size_t)node->items.n + 1);
        if (node->items.n) memcpy(ops, node->ops, (size_t)node->items.n);
        ops[node->items.n] = (uint8_t)op;
        node->ops = ops;
        kvq_tpl_nodes_push(p->r, &node->items, parse_sum(p));
    }
    return node;
}

static kvq_tpl_node *parse_not(parser *p) {
    int line = p->at->line;
    if (!skip_name(p, "not")) return parse_compare(p);
    enter(p);
    kvq_tpl_node *node = new_two(p, KVQ_TPL_NODE_NOT, 0, parse_not(p), NULL, line);
    leave(p);
    return node;
}

static kvq_tpl_node *parse_and(parser *p) {
    int line = p->at->line;
    kvq_tpl_node *left = parse_not(p);
    while (skip_name(p, "and")) left = new_two(p, KVQ_TPL_NODE_AND, 0, left, parse_not(p), line);
    return left;
}

static kvq_tpl_node *parse_or(parser *p) {
    int line = p->at->line;
    kvq_tpl_node *left = parse_and(p);
    while (skip_name(p, "or")) left = new_two(p, KVQ_TPL_NODE_OR, 0, left, parse_and(p), line);
    return left;
}

static kvq_tpl_node *parse_condition(parser *p) {
    int line = p->at->line;
    enter(p);
    kvq_tpl_node *node = parse_or(p);
    while (skip_name(p, "if")) {
        kvq_tpl_node *condition = new_node(p, KVQ_TPL_NODE_CONDITION, line);
        condition->b = node;
        condition->a = parse_or(p);
        if (skip_name(p, "else")) condition->c = parse_condition(p);
        node = condition;
    }
    leave(p);
    return node;
}

static bool is_tuple_end(const parser *p, const char *end_name) {
    return is(p, KVQ_TPL_TOKEN_VARIABLE_END) || is(p, KVQ_TPL_TOKEN_BLOCK_END) || is(p, KVQ_TPL_TOKEN_RPAREN) ||
           (end_name && is_name(p, end_name));
}

static kvq_tpl_node *parse_tuple(parser *p, tuple_options o) {
    kvq_tpl_node *tuple = new_node(p, KVQ_TPL_NODE_LITERAL, p->at->line);
    bool is_tuple = false;
    tuple->op = KVQ_TPL_TUPLE;
    for (;;) {
        if (tuple->items.n) expect(p, KVQ_TPL_TOKEN_COMMA);
        if (is_tuple_end(p, o.end_name)) break;
        kvq_tpl_node *item = o.names_only     ? parse_primary(p, o.namespaces)
                             : o.no_condition ? parse_or(p)
                                              : parse_expression(p);
        kvq_tpl_nodes_push(p->r, &tuple->items, item);
        if (!is(p, KVQ_TPL_TOKEN_COMMA)) break;
        is_tuple = true;
    }
    if (is_tuple || (tuple->items.n == 0 && o.parentheses)) return tuple;
    if (tuple->items.n == 0) fail_here(p, "an expression");
    return tuple->items.at[0];
}

/* ---- targets --------------------------------------------------------------------------------------------------- */

static void mark_target(parser *p, kvq_tpl_node *target) {
    if (target->kind == KVQ_TPL_NODE_LITERAL && target->op == KVQ_TPL_TUPLE) {
        enter(p);
        for (int i = 0; i < target->items.n; i++) mark_target(p, target->items.at[i]);
        leave(p);
    } else if (target->kind == KVQ_TPL_NODE_NAME) {
        target->flag = true;
    } else if (target->kind != KVQ_TPL_NODE_NAMESPACE_REF) {
        p->r->line = target->line;
        kvq_tpl_fail(p->r, KVQ_BAD_FILE, "cannot assign to this expression");
    }
}

static kvq_tpl_node *parse_target(parser *p, bool namespaces, const char *end_name) {
    kvq_tpl_node *target =
        parse_tuple(p, (tuple_options){.names_only = true, .namespaces = namespaces, .end_name = end_name});
    mark_target(p, target);
    return target;
}

static kvq_tpl_node *parse_target_name(parser *p) {
    if (!is(p, KVQ_TPL_TOKEN_NAME)) fail_here(p, "a name");
    kvq_tpl_node *target = parse_name(p, false);
    mark_target(p, target);
    return target;
}

/* ---- statements ------------------------------------------------------------------------------------------------ */

/* End tags of the statement being parsed. */
typedef const char *const *end_names;

static void parse_body(parser *p, end_names ends, int line, kvq_tpl_nodes *ret);

/* After a statement's head: its body up to one of the end tags, which is left as the current token. */
static void parse_statements(parser *p, end_names ends, kvq_tpl_nodes *ret) {
    skip(p, KVQ_TPL_TOKEN_COLON);
    int line = expect(p, KVQ_TPL_TOKEN_BLOCK_END)->line;
    parse_body(p, ends, line, ret);
}

/* As above for the usual case of one end tag, which is skipped. */
static void parse_block(parser *p, const char *end, kvq_tpl_nodes *ret) {
    parse_statements(p, (const char *const[]){end, NULL}, ret);
    next(p);
}

static kvq_tpl_node *parse_for(parser *p, kvq_tpl_node *node) {
    node->a = parse_target(p, false, "in");
    expect_name(p, "in");
    node->b = parse_tuple(p, (tuple_options){.no_condition = true, .end_name = "recursive"});
    if (skip_name(p, "if")) node->c = parse_expression(p);
    node->flag = skip_name(p, "recursive");
    parse_statements(p, (const char *const[]){"else", "endfor", NULL}, &node->body);
    if (kvq_tpl_string_is(next(p)->value.as.text, "else")) parse_block(p, "endfor", &node->more);
    return node;
}

/* elif is an if that stands alone in the else branch. */
static kvq_tpl_node *parse_if(parser *p, kvq_tpl_node *node) {
    for (kvq_tpl_node *at = node;;) {
        at->a = parse_tuple(p, (tuple_options){.no_condition = true});
        parse_statements(p, (const char *const[]){"elif", "else", "endif", NULL}, &at->body);
        const kvq_tpl_token *end = next(p);
        if (token_is_name(end, "else")) parse_block(p, "endif", &at->more);
        if (!token_is_name(end, "elif")) return node;
        kvq_tpl_node *inner = new_node(p, KVQ_TPL_NODE_IF, end->line);
        kvq_tpl_nodes_push(p->r, &at->more, inner);
        at = inner;
    }
}

static kvq_tpl_node *parse_set(parser *p, kvq_tpl_node *node) {
    node->a = parse_target(p, true, NULL);
    if (skip(p, KVQ_TPL_TOKEN_ASSIGN)) {
        node->b = parse_tuple(p, (tuple_options){0});
        return node;
    }
    node->kind = KVQ_TPL_NODE_SET_BLOCK;
    node->b = parse_filter(p, NULL, false);
    parse_block(p, "endset", &node->body);
    return node;
}

static kvq_tpl_node *parse_with(parser *p, kvq_tpl_node *node) {
    while (!is(p, KVQ_TPL_TOKEN_BLOCK_END)) {
        if (node->items.n) expect(p, KVQ_TPL_TOKEN_COMMA);
        kvq_tpl_nodes_push(p->r, &node->items, parse_target(p, false, NULL));
        expect(p, KVQ_TPL_TOKEN_ASSIGN);
        kvq_tpl_nodes_push(p->r, &node->more, parse_expression(p));
    }
    parse_block(p, "endwith", &node->body);
    return node;
}

static void parse_signature(parser *p, kvq_tpl_node *node) {
    expect(p, KVQ_TPL_TOKEN_LPAREN);
    while (!is(p, KVQ_TPL_TOKEN_RPAREN)) {
        if (node->items.n) expect(p, KVQ_TPL_TOKEN_COMMA);
        kvq_tpl_node *name = parse_target_name(p);
        kvq_tpl_charge(p->r, (size_t)node->items.n / 4);
        for (int i = 0; i < node->items.n; i++)
            if (kvq_tpl_string_equal(node->items.at[i]->name, name->name))
                kvq_tpl_fail(p->r, KVQ_BAD_FILE, "a parameter is named twice");
        kvq_tpl_nodes_push(p->r, &node->items, name);
        if (skip(p, KVQ_TPL_TOKEN_ASSIGN))
            kvq_tpl_nodes_push(p->r, &node->more, parse_expression(p));
        else if (node->more.n)
            kvq_tpl_fail(p->r, KVQ_BAD_FILE, "a parameter without default follows one with a default");
    }
    expect(p, KVQ_TPL_TOKEN_RPAREN);
}

static kvq_tpl_node *parse_macro(parser *p, kvq_tpl_node *node) {
    node->name = parse_target_name(p)->name;
    parse_signature(p, node);
    parse_block(p, "endmacro", &node->body);
    return node;
}

static kvq_tpl_node *parse_call_block(parser *p, kvq_tpl_node *node) {
    if (is(p, KVQ_TPL_TOKEN_LPAREN)) parse_signature(p, node);
    node->a = parse_expression(p);
    if (node->a->kind != KVQ_TPL_NODE_CALL) fail_here(p, "a call");
    parse_block(p, "endcall", &node->body);
    return node;
}

static kvq_tpl_node *parse_filter_block(parser *p, kvq_tpl_node *node) {
    node->a = parse_filter(p, NULL, true);
    parse_block(p, "endfilter", &node->body);
    return node;
}

static kvq_tpl_node *parse_generation(parser *p, kvq_tpl_node *node) {
    parse_block(p, "endgeneration", &node->body);
    return node;
}

static kvq_tpl_node *parse_nothing(parser *p, kvq_tpl_node *node) {
    (void)p;
    return node;
}

static kvq_tpl_node *parse_print(parser *p, kvq_tpl_node *node) {
    node->a = parse_expression(p);
    if (is(p, KVQ_TPL_TOKEN_COMMA)) kvq_tpl_fail(p->r, KVQ_UNSUPPORTED, "'print' with several values is not supported");
    return node;
}

/* THE statement table. parse NULL: Jinja2 has it, chat templates have no use for it. */
static const struct statement {
    const char *name;
    kvq_tpl_node_kind kind;
    kvq_tpl_node *(*parse)(parser *p, kvq_tpl_node *node);
} statements[] = {
    /* clang-format off */
    {"for",        KVQ_TPL_NODE_FOR,          parse_for},
    {"if",         KVQ_TPL_NODE_IF,           parse_if},
    {"set",        KVQ_TPL_NODE_SET,          parse_set},
    {"macro",      KVQ_TPL_NODE_MACRO,        parse_macro},
    {"call",       KVQ_TPL_NODE_CALL_BLOCK,   parse_call_block},
    {"filter",     KVQ_TPL_NODE_FILTER_BLOCK, parse_filter_block},
    {"with",       KVQ_TPL_NODE_WITH,         parse_with},
    {"generation", KVQ_TPL_NODE_GENERATION,   parse_generation},
    {"break",      KVQ_TPL_NODE_BREAK,        parse_nothing},
    {"continue",   KVQ_TPL_NODE_CONTINUE,     parse_nothing},
    {"print",      KVQ_TPL_NODE_OUTPUT,       parse_print},
    {"block",      KVQ_TPL_NODE_COUNT,        NULL},
    {"extends",    KVQ_TPL_NODE_COUNT,        NULL},
    {"include",    KVQ_TPL_NODE_COUNT,        NULL},
    {"import",     KVQ_TPL_NODE_COUNT,        NULL},
    {"from",       KVQ_TPL_NODE_COUNT,        NULL},
    {"autoescape", KVQ_TPL_NODE_COUNT,        NULL},
    /* clang-format on */
};

static kvq_tpl_node *parse_statement(parser *p) {
    if (!is(p, KVQ_TPL_TOKEN_NAME)) fail_here(p, "a tag's name");
    const kvq_tpl_string *name = p->at->value.as.text;
    int n = name->n_bytes > 80 ? 80 : (int)name->n_bytes;
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!kvq_tpl_string_is(name, statements[i].name)) continue;
        if (!statements[i].parse)
            kvq_tpl_fail(p->r, KVQ_UNSUPPORTED, "the tag '%.*s' is not supported", n, name->bytes);
        kvq_tpl_node *node = new_node(p, statements[i].kind, next(p)->line);
        enter(p);
        node = statements[i].parse(p, node);
        leave(p);
        return node;
    }
    kvq_tpl_fail(p->r, KVQ_BAD_FILE, "unknown tag '%.*s'", n, name->bytes);
}

static bool is_end(const parser *p, end_names ends) {
    for (; ends && *ends; ends++)
        if (is_name(p, *ends)) return true;
    return false;
}

static void parse_output(parser *p, kvq_tpl_nodes *ret) {
    kvq_tpl_node *node = new_node(p, KVQ_TPL_NODE_OUTPUT, next(p)->line);
    node->a = parse_tuple(p, (tuple_options){0});
    expect(p, KVQ_TPL_TOKEN_VARIABLE_END);
    kvq_tpl_nodes_push(p->r, ret, node);
}

__attribute__((noreturn)) static void fail_open_block(parser *p, end_names ends, int line) {
    while (ends[1]) ends++;
    p->r->line = line;
    kvq_tpl_fail(p->r, KVQ_BAD_FILE, "the block that begins here is not closed by '%s'", *ends);
}

/* Up to one of the end tags, or the end of the template if ends is NULL. line: of the tag before. */
static void parse_body(parser *p, end_names ends, int line, kvq_tpl_nodes *ret) {
    for (;;) {
        switch (p->at->kind) {
        case KVQ_TPL_TOKEN_DATA: {
            kvq_tpl_node *node = new_node(p, KVQ_TPL_NODE_DATA, p->at->line);
            node->value = next(p)->value;
            kvq_tpl_nodes_push(p->r, ret, node);
            break;
        }
        case KVQ_TPL_TOKEN_VARIABLE_BEGIN:
            parse_output(p, ret);
            break;
        case KVQ_TPL_TOKEN_BLOCK_BEGIN:
            next(p);
            if (is_end(p, ends)) return;
            kvq_tpl_nodes_push(p->r, ret, parse_statement(p));
            expect(p, KVQ_TPL_TOKEN_BLOCK_END);
            break;
        default:
            if (!ends) return;
            fail_open_block(p, ends, line);
        }
    }
}

void kvq_tpl_parse(kvq_tpl_run *r, const kvq_tpl_tokens *tokens, kvq_tpl_nodes *ret) {
    parser p = {.r = r, .at = tokens->at};
    parse_body(&p, NULL, 1, ret);
}
