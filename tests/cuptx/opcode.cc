/* opcode.cc - finding the row of an opcode: the longest leading parts that are a name; what follows
 * has to be modifiers that the row takes, then types. Anything else is an error, so that no
 * modifier is passed over in silence. Thread: any, constants. */
#include "opcode.h"

namespace cuptx
{

static scalar scalar_named(const std::string &s)
{
    static const struct {
        const char *name;
        scalar type;
    } names[] = {
        {"u8", U8},   {"s8", S8},   {"b8", B8},   {"u16", U16}, {"s16", S16},   {"b16", B16},
        {"u32", U32}, {"s32", S32}, {"b32", B32}, {"u64", U64}, {"s64", S64},   {"b64", B64},
        {"f16", F16}, {"f32", F32}, {"f64", F64}, {"b1", PRED}, {"pred", PRED}, {"bf16", BF16},
    };
    for (const auto &n : names) {
        if (s == n.name) {
            return n.type;
        }
    }
    return NO_TYPE;
}

static const struct {
    const char *name;
    uint64_t bits;
} MODIFIERS[] = {
    {"rn", M_RN},
    {"rz", M_RZ},
    {"rm", M_RM},
    {"rp", M_RP},
    {"rni", M_RN | M_TO_INTEGER},
    {"rzi", M_RZ | M_TO_INTEGER},
    {"rmi", M_RM | M_TO_INTEGER},
    {"rpi", M_RP | M_TO_INTEGER},
    {"ftz", M_FTZ},
    {"sat", M_SAT},
    {"approx", M_APPROX},
    {"full", M_APPROX},
    {"and", M_AND},
    {"or", M_OR},
    {"xor", M_XOR},
    {"global", M_GLOBAL},
    {"shared", M_SHARED},
    {"shared::cta", M_SHARED},
    {"local", M_LOCAL},
    {"param", M_PARAM},
    {"const", M_CONST},
    {"v2", M_VECTOR},
    {"v4", M_VECTOR},
    {"add", M_ADD},
    {"min", M_MIN},
    {"max", M_MAX},
    {"exch", M_EXCH},
    {"cas", M_CAS},
    {"trans", M_TRANS},
    {"uni", M_UNI},
    {"aligned", M_ALIGNED},
    {"nc", M_CACHE},
    {"ca", M_CACHE},
    {"cg", M_CACHE},
    {"cs", M_CACHE},
    {"lu", M_CACHE},
    {"cv", M_CACHE},
    {"wb", M_CACHE},
    {"wt", M_CACHE},
    {"volatile", M_CACHE},
    {"relaxed", M_CACHE},
    {"gpu", M_CACHE},
    {"cta", M_CACHE},
    {"sys", M_CACHE},
    {"L1::no_allocate", M_CACHE},
    {"L1::evict_last", M_CACHE},
    {"L1::evict_first", M_CACHE},
    {"L2::64B", M_CACHE},
    {"L2::128B", M_CACHE},
    {"L2::256B", M_CACHE},
};

static uint64_t modifier_named(const std::string &s)
{
    for (const auto &n : MODIFIERS) {
        if (s == n.name) {
            return n.bits;
        }
    }
    return 0;
}

static const opcode *row_named(const std::string &name)
{
    static const opcode_rows tables[] = {integer_opcodes(), float_opcodes(),  convert_opcodes(),
                                         select_opcodes(),  memory_opcodes(), warp_opcodes()};
    for (const opcode_rows &t : tables) {
        for (size_t i = 0; i < t.n; i++) {
            if (name == t.rows[i].name) {
                return &t.rows[i];
            }
        }
    }
    return nullptr;
}

/* Modifiers and types after the name; false where one is neither. */
static bool take_rest(const opcode *row, const std::string &rest, instruction *i,
                      std::string *ret_error)
{
    size_t at = 0;
    while (at < rest.size()) {
        size_t end = rest.find('.', at);
        end = end == std::string::npos ? rest.size() : end;
        std::string part = rest.substr(at, end - at);
        at = end + 1;
        uint64_t bits = modifier_named(part);
        scalar type = scalar_named(part);
        if (bits != 0 && (row->modifiers & bits) == bits) {
            i->flags |= bits;
        } else if (type != NO_TYPE && i->type == NO_TYPE) {
            i->type = type;
        } else if (type != NO_TYPE && i->from == NO_TYPE) {
            i->from = type;
        } else {
            *ret_error = "." + part + " is not supported here";
            return false;
        }
    }
    return true;
}

const opcode *opcode_find(const std::string &text, instruction *i, std::string *ret_error)
{
    const opcode *row = nullptr;
    size_t end = text.size();
    for (;;) {
        row = row_named(text.substr(0, end));
        if (row != nullptr || end == std::string::npos || end == 0) {
            break;
        }
        end = text.rfind('.', end - 1);
        if (end == std::string::npos) {
            break;
        }
    }
    if (row == nullptr) {
        *ret_error = "unknown opcode";
        return nullptr;
    }
    i->mode = row->mode;
    if (end < text.size() && !take_rest(row, text.substr(end + 1), i, ret_error)) {
        return nullptr;
    }
    return row;
}

} // namespace cuptx
