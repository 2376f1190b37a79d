/* module.cc - statements to modules and kernels: declarations, labels, instructions with their
 * operands turned into slots. Whatever is not understood ends the program with the line.
 * Source: PTX ISA 9.0. Thread: whichever loads a module. */
#include <cstdlib>
#include <map>

#include "opcode.h"
#include "statement.h"

namespace cuptx
{

/* While a kernel is read, slots carry their kind; slots_settle() turns them into numbers. */
enum : int { CONSTANT = 1 << 24, REGISTER = 1 << 25, KIND_MASK = CONSTANT | REGISTER };

/* Between shared arrays nothing may be touched; ptxas promises no order or distance either. */
static const size_t SHARED_GAP = 64;

struct builder {
    const std::string &file;
    module *m;
    std::map<std::string, uint64_t> variables; /* symbols of the module */
    std::vector<declaration> module_shared;
    std::string dynamic_name; /* of .extern .shared */

    kernel *k = nullptr;
    int depth = 0, dynamic_constant = -1, n_registers = 0;
    std::map<std::string, int> slots, labels;
    std::map<std::string, uint64_t> symbols; /* of the kernel: offsets in their space */
    std::map<std::string, size_t> tables;
    std::vector<std::vector<std::string>> table_labels;
    std::vector<std::pair<size_t, std::string>> jumps, table_jumps; /* instruction, label */
    std::string last_label;

    builder(const std::string &name, module *mod) : file(name), m(mod)
    {
    }
    [[noreturn]] void error(const statement &s, const std::string &what) const
    {
        cuemu::fail({file.c_str(), s.line}, "%s: %s", what.c_str(), s.text.c_str());
    }
};

static size_t aligned(size_t at, size_t align)
{
    return (at + align - 1) / align * align;
}

static int constant_slot(builder *b, const std::string &name, uint64_t value)
{
    int slot = CONSTANT | (int)b->k->constants.size();
    b->k->constants.push_back(value);
    b->slots[name] = slot;
    return slot;
}

static int special_slot(const std::string &name)
{
    static const struct {
        const char *name;
        special slot;
    } names[] = {
        {"%tid.x", TID_X},       {"%tid.y", TID_Y},       {"%tid.z", TID_Z},
        {"%ntid.x", NTID_X},     {"%ntid.y", NTID_Y},     {"%ntid.z", NTID_Z},
        {"%ctaid.x", CTAID_X},   {"%ctaid.y", CTAID_Y},   {"%ctaid.z", CTAID_Z},
        {"%nctaid.x", NCTAID_X}, {"%nctaid.y", NCTAID_Y}, {"%nctaid.z", NCTAID_Z},
        {"%laneid", LANEID},     {"%warpid", WARPID},     {"_", SINK},
    };
    for (const auto &n : names) {
        if (name == n.name) {
            return n.slot;
        }
    }
    return -1;
}

/* The slot of a register, a constant or a symbol, made when it is first named. */
static int slot_of(builder *b, const statement &s, const std::string &name)
{
    auto known = b->slots.find(name);
    if (known != b->slots.end()) {
        return known->second;
    }
    int slot = special_slot(name);
    uint64_t value;
    if (slot >= 0) {
        return slot;
    }
    if (name[0] == '%') {
        if (name.find('.') != std::string::npos) {
            b->error(s, "special register " + name + " is not supported");
        }
        return b->slots[name] = REGISTER | b->n_registers++;
    }
    if (immediate_parse(name, &value)) {
        return constant_slot(b, name, value);
    }
    if (name == "WARP_SZ") {
        return constant_slot(b, name, cuemu::WARP);
    }
    if (name == b->dynamic_name) {
        b->dynamic_constant = (int)b->k->constants.size();
        return constant_slot(b, name, 0);
    }
    if (b->symbols.count(name) != 0) {
        return constant_slot(b, name, b->symbols[name]);
    }
    if (b->variables.count(name) != 0) {
        return constant_slot(b, name, b->variables[name]);
    }
    b->error(s, "unknown name " + name);
}

/* ---- declarations ---- */

static void add_shared(builder *b, const declaration &d)
{
    kernel *k = b->k;
    size_t at = k->shared.empty() ? 0 : aligned(k->shared_bytes + SHARED_GAP, d.align);
    k->shared.push_back({at, d.n_bytes});
    k->shared_bytes = at + d.n_bytes;
    b->symbols[d.name] = at;
}

static void add_local(builder *b, const declaration &d)
{
    size_t at = aligned(b->k->local_bytes, d.align);
    b->k->local_bytes = at + d.n_bytes;
    b->symbols[d.name] = at;
}

static void add_variable(builder *b, const declaration &d)
{
    char *p = static_cast<char *>(aligned_alloc(256, aligned(d.n_bytes, 256)));
    memset(p, 0, d.n_bytes);
    for (size_t i = 0; i < d.values.size(); i++) {
        memcpy(p + i * d.element_bytes, &d.values[i], d.element_bytes);
    }
    b->m->variables.emplace_back(p, d.n_bytes);
    b->variables[d.name] = reinterpret_cast<uint64_t>(p);
}

static void add_parameters(builder *b, const statement &s, const std::string &list)
{
    for (const std::string &text : split_list(list)) {
        declaration d;
        if (!declaration_parse(text, &d)) {
            b->error(s, "parameter " + text);
        }
        size_t at = aligned(b->k->param_bytes, d.align);
        b->k->params.push_back({at, d.n_bytes});
        b->k->param_bytes = at + d.n_bytes;
        b->symbols[d.name] = at;
    }
}

/* .entry name(parameters) .maxntid 256, 1, 1 */
static void kernel_begin(builder *b, const statement &s)
{
    size_t entry = s.text.find(".entry "), open = s.text.find('('), close = s.text.rfind(')');
    if (entry == std::string::npos) {
        b->error(s, "functions that are not inlined are not supported");
    }
    b->m->kernels.push_back(std::make_unique<kernel>());
    b->k = b->m->kernels.back().get();
    size_t name_end = open != std::string::npos ? open : s.text.find_first_of(" {", entry + 7);
    b->k->name = trimmed(s.text.substr(entry + 7, name_end - entry - 7));
    b->slots.clear();
    b->labels.clear();
    b->symbols.clear();
    b->tables.clear();
    b->table_labels.clear();
    b->jumps.clear();
    b->table_jumps.clear();
    b->dynamic_constant = -1;
    b->n_registers = 0;
    b->depth = 1;
    if (open != std::string::npos) {
        add_parameters(b, s, s.text.substr(open + 1, close - open - 1));
    }
    size_t maxntid = s.text.find(".maxntid ");
    if (maxntid != std::string::npos) {
        unsigned x = 1, y = 1, z = 1;
        sscanf(s.text.c_str() + maxntid, ".maxntid %u , %u , %u", &x, &y, &z);
        b->k->max_threads = x * y * z;
    }
    for (const declaration &d : b->module_shared) {
        add_shared(b, d);
    }
}

static bool has_word(const std::string &text, const char *word)
{
    size_t at = text.find(word);
    return at != std::string::npos && text[at + strlen(word)] == ' ';
}

static bool starts(const std::string &text, const char *word)
{
    return text.compare(0, strlen(word), word) == 0;
}

static void module_statement(builder *b, const statement &s)
{
    static const char *const ignored[] = {".version", ".target", ".address_size", ".file", ".loc "};
    declaration d;
    for (const char *word : ignored) {
        if (starts(s.text, word)) {
            return;
        }
    }
    if (has_word(s.text, ".func")) {
        return; /* a declaration; calls of it are errors */
    }
    if (!declaration_parse(s.text, &d)) {
        b->error(s, "not understood");
    }
    if (has_word(s.text, ".shared")) {
        if (has_word(s.text, ".extern")) {
            b->dynamic_name = d.name;
        } else {
            b->module_shared.push_back(d);
        }
    } else if (has_word(s.text, ".global") || has_word(s.text, ".const")) {
        add_variable(b, d);
    } else {
        b->error(s, "not understood");
    }
}

/* ---- instructions ---- */

static void add_operand(builder *b, const statement &s, instruction *i, const operand &o,
                        bool result, int *n_addresses)
{
    for (const std::string &name : o.names) {
        if (result ? i->n_dst == MAX_RESULTS : i->n_src == MAX_SOURCES) {
            b->error(s, "too many operands");
        }
        int slot = slot_of(b, s, name);
        if (result) {
            i->dst[i->n_dst++] = slot;
        } else {
            i->negated |= (unsigned)o.negated << i->n_src;
            i->src[i->n_src++] = slot;
        }
    }
    if (o.address) {
        if (*n_addresses == 2 || result) {
            b->error(s, "unexpected address");
        }
        i->offset[(*n_addresses)++] = o.offset;
    }
    if (!o.second.empty()) {
        i->second = slot_of(b, s, o.second);
    }
}

static void add_operands(builder *b, const statement &s, const opcode *row, const std::string &rest,
                         instruction *i)
{
    std::vector<std::string> texts = split_list(rest);
    int n_addresses = 0;
    size_t n = b->k->code.size();
    if (row->operands == JUMP && texts.size() == 1) {
        b->jumps.emplace_back(n, texts[0]);
        return;
    }
    if (row->operands == JUMP_BY && texts.size() == 2) {
        b->table_jumps.emplace_back(n, texts[1]);
        texts.pop_back();
    }
    for (size_t j = 0; j < texts.size(); j++) {
        operand o;
        if (!operand_parse(texts[j], &o)) {
            b->error(s, "operand " + texts[j]);
        }
        add_operand(b, s, i, o, row->operands == RESULT && j == 0, &n_addresses);
    }
    if ((row->operands == RESULT) != (i->n_dst > 0)) {
        b->error(s, "no result");
    }
}

/* @!%p1 at the beginning; what follows it. */
static std::string take_guard(builder *b, const statement &s, instruction *i)
{
    if (s.text[0] != '@') {
        return s.text;
    }
    i->guard_negated = s.text[1] == '!';
    size_t at = i->guard_negated ? 2 : 1, end = s.text.find(' ');
    i->guard = slot_of(b, s, s.text.substr(at, end - at));
    return trimmed(s.text.substr(end));
}

static void add_instruction(builder *b, const statement &s)
{
    instruction i = {};
    i.second = i.guard = -1;
    i.line = s.line;
    std::string text = take_guard(b, s, &i), wrong;
    size_t end = text.find(' ');
    const opcode *row = opcode_find(text.substr(0, end), &i, &wrong);
    if (row == nullptr) {
        b->error(s, wrong);
    }
    add_operands(b, s, row, end == std::string::npos ? "" : text.substr(end), &i);
    i.run = row->choose(i);
    if (i.run == nullptr) {
        b->error(s, "not supported with these types, modifiers or operands");
    }
    b->k->code.push_back(i);
    b->k->text.push_back(s.text);
}

static void kernel_statement(builder *b, const statement &s)
{
    declaration d;
    if (s.text[0] != '.') {
        add_instruction(b, s);
        return;
    }
    if (starts(s.text, ".reg") || starts(s.text, ".pragma") || starts(s.text, ".loc ") ||
        starts(s.text, ".file")) {
        return;
    }
    if (starts(s.text, ".branchtargets ")) {
        b->tables[b->last_label] = b->table_labels.size();
        b->table_labels.push_back(split_list(s.text.substr(strlen(".branchtargets "))));
        return;
    }
    if (!declaration_parse(s.text, &d)) {
        b->error(s, "not understood");
    }
    if (has_word(s.text, ".shared")) {
        add_shared(b, d);
    } else if (has_word(s.text, ".local")) {
        add_local(b, d);
    } else {
        b->error(s, "not understood");
    }
}

/* ---- the end of a kernel ---- */

static int label_target(builder *b, const statement &s, const std::string &label)
{
    auto found = b->labels.find(label);
    if (found == b->labels.end()) {
        b->error(s, "unknown label " + label);
    }
    return found->second;
}

static void jumps_settle(builder *b, const statement &s)
{
    for (const auto &jump : b->jumps) {
        b->k->code[jump.first].target = label_target(b, s, jump.second);
    }
    for (const auto &jump : b->table_jumps) {
        if (b->tables.count(jump.second) == 0) {
            b->error(s, "unknown table " + jump.second);
        }
        b->k->code[jump.first].target = (int)b->tables[jump.second];
    }
    for (const auto &labels : b->table_labels) {
        std::vector<int> targets;
        for (const std::string &label : labels) {
            targets.push_back(label_target(b, s, label));
        }
        b->k->tables.push_back(targets);
    }
}

static int settled(const kernel *k, int slot)
{
    int n = slot & ~KIND_MASK;
    switch (slot & KIND_MASK) {
    case CONSTANT:
        return N_SPECIALS + n;
    case REGISTER:
        return N_SPECIALS + (int)k->constants.size() + n;
    default:
        return n;
    }
}

static void slots_settle(builder *b)
{
    kernel *k = b->k;
    for (instruction &i : k->code) {
        for (int j = 0; j < i.n_dst; j++) {
            i.dst[j] = settled(k, i.dst[j]);
        }
        for (int j = 0; j < i.n_src; j++) {
            i.src[j] = settled(k, i.src[j]);
        }
        i.second = i.second < 0 ? -1 : settled(k, i.second);
        i.guard = i.guard < 0 ? -1 : settled(k, i.guard);
    }
    k->n_slots = N_SPECIALS + (int)k->constants.size() + b->n_registers;
}

/* A kernel may end without ret, or with a label behind its last instruction. */
static bool falls_off_the_end(const builder *b)
{
    for (const auto &label : b->labels) {
        if (label.second == (int)b->k->code.size()) {
            return true;
        }
    }
    if (b->k->code.empty() || b->k->code.back().guard >= 0) {
        return true;
    }
    const std::string &last = b->k->text.back();
    return !starts(last, "ret") && !starts(last, "exit") && !starts(last, "bra") &&
           !starts(last, "trap");
}

static void kernel_end(builder *b, const statement &s)
{
    kernel *k = b->k;
    k->dynamic_at = k->shared.empty() ? 0 : aligned(k->shared_bytes + SHARED_GAP, 128);
    if (b->dynamic_constant >= 0) {
        k->constants[(size_t)b->dynamic_constant] = k->dynamic_at;
    }
    if (falls_off_the_end(b)) {
        statement end = s;
        end.text = "ret"; /* running off the end returns */
        add_instruction(b, end);
    }
    jumps_settle(b, s);
    slots_settle(b);
    k->marks.assign(k->code.size(), 0);
    b->k = nullptr;
}

module::~module()
{
    for (const auto &v : variables) {
        free(v.first);
    }
}

kernel *module::find(const std::string &kernel_name) const
{
    for (const auto &k : kernels) {
        if (k->name == kernel_name) {
            return k.get();
        }
    }
    return nullptr;
}

static void inside_kernel(builder *b, const statement &s)
{
    switch (s.kind) {
    case PLAIN:
        kernel_statement(b, s);
        break;
    case LABEL:
        b->labels[s.text] = (int)b->k->code.size();
        b->last_label = s.text;
        break;
    case OPEN:
        b->depth++;
        break;
    case CLOSE:
        if (--b->depth == 0) {
            kernel_end(b, s);
        }
        break;
    default:
        b->error(s, "a kernel is not closed");
    }
}

std::unique_ptr<module> module_parse(const std::string &name, const std::string &text)
{
    auto m = std::make_unique<module>();
    m->name = name;
    builder b(m->name, m.get());
    statement_reader reader(m->name, text);
    for (;;) {
        statement s = reader.next();
        if (b.k != nullptr) {
            inside_kernel(&b, s);
        } else if (s.kind == END_OF_TEXT) {
            return m;
        } else if (s.kind == HEADER) {
            kernel_begin(&b, s);
        } else if (s.kind == PLAIN) {
            module_statement(&b, s);
        } else {
            b.error(s, "not understood");
        }
    }
}

} // namespace cuptx
