/* template_call.c: what Python does around a call: binding arguments to a built-in's parameters, looking up attributes
 * and subscripts (Jinja2's environment.getattr and getitem), deciding what can be called. Called by template_eval.c and
 * by the filters that take a filter's or test's name. */
#include <string.h>

#include "template_internal.h"

static int shown(const kvq_tpl_string *s) {
    return s->n_bytes > 80 ? 80 : (int)s->n_bytes;
}

/* ---- binding arguments to rows --------------------------------------------------------------------------------- */

/* The parameter's index in a row's list. */
static int find_param(kvq_tpl_run *r, const char *what, const kvq_tpl_row *row, const kvq_tpl_string *name) {
    const char *params = row->params;
    for (int i = 0; *params; i++) {
        size_t n = strcspn(params, " ");
        if (n == name->n_bytes && memcmp(params, name->bytes, n) == 0) return i;
        params += n + (params[n] == ' ');
    }
    kvq_tpl_fail(r, KVQ_BAD_FILE, "the %s '%s' has no parameter '%.*s'", what, row->name, shown(name), name->bytes);
}

static int count_params(const char *params) {
    int n = *params != '\0';
    for (; *params; params++) n += *params == ' ';
    return n;
}

static void bind_args(kvq_tpl_run *r, const char *what, const kvq_tpl_row *row, const kvq_tpl_args *args,
                      kvq_tpl_call *call) {
    size_t n_params = (size_t)count_params(row->params);
    if (args->n > n_params)
        kvq_tpl_fail(r, KVQ_BAD_FILE, "the %s '%s' takes at most %zu arguments, got %zu", what, row->name, n_params,
                     args->n);
    for (size_t i = 0; i < args->n; i++) call->arg[i] = args->items[i];
    for (size_t i = 0; i < args->n_names; i++) {
        int at = find_param(r, what, row, args->names[i]);
        if (call->arg[at].kind != KVQ_TPL_MISSING)
            kvq_tpl_fail(r, KVQ_BAD_FILE, "the %s '%s' got its parameter '%.*s' twice", what, row->name,
                         shown(args->names[i]), args->names[i]->bytes);
        call->arg[at] = args->values[i];
    }
    for (int i = 0; i < row->n_required; i++)
        if (call->arg[i].kind == KVQ_TPL_MISSING)
            kvq_tpl_fail(r, KVQ_BAD_FILE, "the %s '%s' needs %d arguments", what, row->name, row->n_required);
}

kvq_tpl_value kvq_tpl_call_row(kvq_tpl_run *r, const char *what, const kvq_tpl_row *row, kvq_tpl_value self,
                               const kvq_tpl_args *args) {
    kvq_tpl_call call = {.self = self, .args = args}; /* zero is MISSING */
    if (!row->call) kvq_tpl_fail(r, KVQ_UNSUPPORTED, "the %s '%s' is not supported", what, row->name);
    if (row->params) bind_args(r, what, row, args, &call);
    /* cppcheck-suppress returnDanglingLifetime; a value is returned by copy and keeps nothing of the call */
    return row->call(r, &call);
}

kvq_tpl_value kvq_tpl_call_filter(kvq_tpl_run *r, kvq_tpl_value name, kvq_tpl_value self, const kvq_tpl_args *args) {
    const kvq_tpl_row *row = name.kind == KVQ_TPL_STRING ? kvq_tpl_filter_find(name.as.text) : NULL;
    kvq_tpl_value text = kvq_tpl_repr(r, name);
    if (!row) kvq_tpl_fail(r, KVQ_BAD_FILE, "no filter is named %.*s", shown(text.as.text), text.as.text->bytes);
    return kvq_tpl_call_row(r, "filter", row, self, args);
}

bool kvq_tpl_call_test(kvq_tpl_run *r, kvq_tpl_value name, kvq_tpl_value self, const kvq_tpl_args *args) {
    const kvq_tpl_row *row = name.kind == KVQ_TPL_STRING ? kvq_tpl_test_find(name.as.text) : NULL;
    kvq_tpl_value text = kvq_tpl_repr(r, name);
    if (!row) kvq_tpl_fail(r, KVQ_BAD_FILE, "no test is named %.*s", shown(text.as.text), text.as.text->bytes);
    return kvq_tpl_truth(r, kvq_tpl_call_row(r, "test", row, self, args));
}

/* ---- calling values -------------------------------------------------------------------------------------------- */

bool kvq_tpl_is_callable(kvq_tpl_value v) {
    switch (v.kind) {
    case KVQ_TPL_UNDEFINED: /* Python finds a __call__ there, though it only fails */
    case KVQ_TPL_MACRO:
    case KVQ_TPL_FUNCTION:
    case KVQ_TPL_METHOD:
    case KVQ_TPL_LOOP:
    case KVQ_TPL_JOINER:
        return true;
    default:
        return false;
    }
}

static kvq_tpl_value call_joiner(kvq_tpl_joiner *j) {
    bool first = !j->used;
    j->used = true;
    return first ? kvq_tpl_empty : j->separator;
}

kvq_tpl_value kvq_tpl_call_value(kvq_tpl_run *r, kvq_tpl_value callee, const kvq_tpl_args *args) {
    bool no_args = args->n == 0 && args->n_names == 0;
    switch (callee.kind) {
    case KVQ_TPL_UNDEFINED:
        kvq_tpl_fail_undefined(r, callee);
    case KVQ_TPL_MACRO:
        return kvq_tpl_call_macro(r, callee.as.macro, args);
    case KVQ_TPL_FUNCTION:
        return kvq_tpl_call_row(r, "function", callee.as.row, kvq_tpl_none, args);
    case KVQ_TPL_METHOD:
        return kvq_tpl_call_row(r, "method", callee.as.method->row, callee.as.method->self, args);
    case KVQ_TPL_LOOP:
        if (args->n == 1 && args->n_names == 0) return kvq_tpl_call_loop(r, callee.as.loop, args->items[0]);
        break;
    case KVQ_TPL_JOINER:
        if (no_args) return call_joiner(callee.as.joiner);
        break;
    default:
        break;
    }
    kvq_tpl_fail(r, KVQ_BAD_FILE, "'%s' object cannot be called so", kvq_tpl_type_name(callee));
}

/* ---- attributes ------------------------------------------------------------------------------------------------ */

static kvq_tpl_value unsafe(kvq_tpl_run *r, kvq_tpl_value object, const kvq_tpl_string *name) {
    size_t mark = r->n_out;
    kvq_tpl_put_text(r, "the sandbox refuses the attribute '");
    kvq_tpl_put(r, name->bytes, name->n_bytes);
    kvq_tpl_put_text(r, "' of a '");
    kvq_tpl_put_text(r, kvq_tpl_type_name(object));
    kvq_tpl_put_text(r, "'");
    return kvq_tpl_undefined(KVQ_TPL_BY_HINT, KVQ_TPL_NONE, kvq_tpl_take(r, mark).as.text);
}

static bool method_attribute(kvq_tpl_run *r, kvq_tpl_value object, const kvq_tpl_string *name, kvq_tpl_value *ret) {
    const kvq_tpl_row *row = kvq_tpl_method_find((kvq_tpl_kind)object.kind, name);
    if (!row) return false;
    if (!row->call && !row->not_supported) {
        *ret = unsafe(r, object, name);
        return true;
    }
    kvq_tpl_method *m = kvq_tpl_alloc(r, sizeof *m);
    *m = (kvq_tpl_method){object, row};
    *ret = (kvq_tpl_value){.kind = KVQ_TPL_METHOD, .as.method = m};
    return true;
}

static bool macro_attribute(kvq_tpl_run *r, const kvq_tpl_macro *m, const kvq_tpl_string *name, kvq_tpl_value *ret) {
    if (kvq_tpl_string_is(name, "name")) {
        *ret = m->name ? kvq_tpl_string_value(m->name) : kvq_tpl_none;
    } else if (kvq_tpl_string_is(name, "arguments")) {
        kvq_tpl_list *names = kvq_tpl_list_new(r, 0);
        for (int i = 0; i < m->node->items.n; i++)
            kvq_tpl_list_push(r, names, kvq_tpl_string_value(m->node->items.at[i]->name));
        *ret = kvq_tpl_tuple_value(names);
    } else if (kvq_tpl_string_is(name, "catch_kwargs")) {
        *ret = kvq_tpl_bool(m->node->takes_kwargs);
    } else if (kvq_tpl_string_is(name, "catch_varargs")) {
        *ret = kvq_tpl_bool(m->node->takes_varargs);
    } else if (kvq_tpl_string_is(name, "caller")) {
        *ret = kvq_tpl_bool(m->node->takes_caller);
    } else {
        return false;
    }
    return true;
}

static bool range_attribute(const kvq_tpl_range *range, const kvq_tpl_string *name, kvq_tpl_value *ret) {
    if (kvq_tpl_string_is(name, "start"))
        *ret = kvq_tpl_int(range->start);
    else if (kvq_tpl_string_is(name, "stop"))
        *ret = kvq_tpl_int(range->stop);
    else if (kvq_tpl_string_is(name, "step"))
        *ret = kvq_tpl_int(range->step);
    else
        return false;
    return true;
}

/* groupby's tuples have names for their two items. */
static bool group_attribute(kvq_tpl_value object, const kvq_tpl_string *name, kvq_tpl_value *ret) {
    if (object.flag != KVQ_TPL_GROUP) return false;
    bool grouper = kvq_tpl_string_is(name, "grouper"), list = kvq_tpl_string_is(name, "list");
    if (grouper || list) *ret = object.as.list->items[list];
    return grouper || list;
}

bool kvq_tpl_attribute(kvq_tpl_run *r, kvq_tpl_value object, const kvq_tpl_string *name, kvq_tpl_value *ret) {
    switch (object.kind) {
    case KVQ_TPL_UNDEFINED:
        if (name->n_bytes >= 4 && memcmp(name->bytes, "__", 2) == 0) return false;
        kvq_tpl_fail_undefined(r, object);
    case KVQ_TPL_NAMESPACE:
        return kvq_tpl_dict_find_text(r, object.as.dict, name, ret);
    case KVQ_TPL_LOOP:
        if (kvq_tpl_loop_attribute(r, object.as.loop, name, ret)) return true;
        break;
    case KVQ_TPL_MACRO:
        return macro_attribute(r, object.as.macro, name, ret);
    case KVQ_TPL_RANGE:
        if (range_attribute(object.as.range, name, ret)) return true;
        break;
    case KVQ_TPL_TUPLE:
        if (group_attribute(object, name, ret)) return true;
        break;
    case KVQ_TPL_CYCLER:
        if (!kvq_tpl_string_is(name, "current")) break;
        *ret = object.as.cycler->items->items[object.as.cycler->at];
        return true;
    default:
        break;
    }
    return method_attribute(r, object, name, ret);
}

/* obj.name: the attribute, else the item, else Undefined. */
kvq_tpl_value kvq_tpl_get_attribute(kvq_tpl_run *r, kvq_tpl_value object, const kvq_tpl_string *name) {
    kvq_tpl_value v;
    if (kvq_tpl_attribute(r, object, name, &v)) return v;
    if (object.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, object);
    if (object.kind == KVQ_TPL_DICT && kvq_tpl_dict_find_text(r, object.as.dict, name, &v)) return v;
    return kvq_tpl_undefined(KVQ_TPL_BY_ATTRIBUTE, (kvq_tpl_kind)object.kind, name);
}

/* ---- subscripts ------------------------------------------------------------------------------------------------ */

static bool index_item(kvq_tpl_run *r, kvq_tpl_value object, int64_t i, kvq_tpl_value *ret) {
    int64_t n = kvq_tpl_length(r, object);
    if (i < 0) i += n;
    if (i < 0 || i >= n) return false;
    if (object.kind == KVQ_TPL_RANGE) {
        *ret = kvq_tpl_int(kvq_tpl_range_at(object.as.range, i));
    } else if (object.kind == KVQ_TPL_STRING) {
        const kvq_tpl_string *s = object.as.text;
        size_t at = kvq_tpl_char_offset(r, s, (size_t)i);
        *ret = kvq_tpl_text(r, s->bytes + at, kvq_tpl_char_bytes(s->bytes + at));
        ret->flag = object.flag;
    } else {
        *ret = object.as.list->items[i];
    }
    return true;
}

/* obj[subscript] as Python has it; false where that raises a TypeError or LookupError. */
static bool item(kvq_tpl_run *r, kvq_tpl_value object, kvq_tpl_value subscript, kvq_tpl_value *ret) {
    switch (object.kind) {
    case KVQ_TPL_UNDEFINED:
        kvq_tpl_fail_undefined(r, object);
    case KVQ_TPL_DICT:
        return kvq_tpl_dict_find(r, object.as.dict, subscript, ret);
    case KVQ_TPL_STRING:
    case KVQ_TPL_LIST:
    case KVQ_TPL_TUPLE:
    case KVQ_TPL_RANGE:
        return kvq_tpl_is_integer(subscript) && index_item(r, object, kvq_tpl_as_int(subscript), ret);
    default:
        return false;
    }
}

/* obj[subscript]: the item, else the attribute of that name, else Undefined. */
kvq_tpl_value kvq_tpl_get_item(kvq_tpl_run *r, kvq_tpl_value object, kvq_tpl_value subscript) {
    kvq_tpl_value v;
    if (item(r, object, subscript, &v)) return v;
    if (subscript.kind == KVQ_TPL_STRING) {
        if (kvq_tpl_attribute(r, object, subscript.as.text, &v)) return v;
        return kvq_tpl_undefined(KVQ_TPL_BY_ATTRIBUTE, (kvq_tpl_kind)object.kind, subscript.as.text);
    }
    return kvq_tpl_undefined(KVQ_TPL_BY_ELEMENT, (kvq_tpl_kind)object.kind, kvq_tpl_repr(r, subscript).as.text);
}
