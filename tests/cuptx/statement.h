/* statement.h - PTX text cut into statements, and statements into declarations and operands.
 * Thread: whichever loads a module. */
#ifndef CUPTX_STATEMENT_H
#define CUPTX_STATEMENT_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cuptx
{

enum statement_kind {
    END_OF_TEXT,
    PLAIN,  /* ended by ; or a directive that is a line */
    LABEL,  /* name: */
    HEADER, /* of a function; its { is taken */
    OPEN,   /* { */
    CLOSE   /* } */
};

struct statement {
    statement_kind kind;
    std::string text; /* without comments, white space is single blanks */
    int line;         /* where it begins */
};

class statement_reader
{
  public:
    statement_reader(const std::string &name, const std::string &text) : name_(name), text_(text)
    {
    }
    statement next();

  private:
    bool skip_comment();
    bool ends_here(statement *s);
    void append(statement *s, char c) const;

    const std::string &name_, &text_;
    size_t at_ = 0;
    int line_ = 1, depth_ = 0;
};

/* .shared .align 4 .b8 name[8], .param .u64 name, .global .f32 name[2] = {..} */
struct declaration {
    std::string name;
    size_t n_bytes, align, element_bytes;
    std::vector<uint64_t> values; /* of elements, as far as initialised */
};
/* false: not a declaration that is understood. */
bool declaration_parse(const std::string &text, declaration *ret);

/* %r1, {%f1,%f2}, [%rd1+4], %r1|%p1, !%p1, 0f3F800000, a symbol */
struct operand {
    std::vector<std::string> names;
    std::string second;
    bool negated, address;
    int64_t offset;
};
bool operand_parse(const std::string &text, operand *ret);

/* At commas outside of brackets; blanks around the parts are dropped. */
std::vector<std::string> split_list(const std::string &text);
std::string trimmed(const std::string &text);
/* Integers (-1, 0x1F, 12U), 0f and 0d hexadecimal floats, as 64 bits. */
bool immediate_parse(const std::string &text, uint64_t *ret);

} // namespace cuptx

#endif
