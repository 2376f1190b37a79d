/* statement.cc - see statement.h. nvcc writes mostly one statement a line, but not for parameters,
 * tables and inline PTX. Source: PTX ISA 9.0, "Syntax". Thread: whichever loads a module. */
#include "statement.h"

#include <cctype>
#include <cstdlib>

#include "runtime.h"

namespace cuptx
{

static bool begins_with(const std::string &text, const char *start)
{
    return text.compare(0, strlen(start), start) == 0;
}

/* Directives that no semicolon ends. */
static bool is_line(const std::string &text)
{
    static const char *const directives[] = {".version", ".target", ".address_size", ".file",
                                             ".loc "};
    for (const char *d : directives) {
        if (begins_with(text, d)) {
            return true;
        }
    }
    return false;
}

static bool is_header(const std::string &text)
{
    return text[0] == '.' &&
           (text.find(".entry ") != std::string::npos || text.find(".func ") != std::string::npos);
}

static bool is_identifier(const std::string &text)
{
    for (char c : text) {
        if (isalnum((unsigned char)c) == 0 && c != '_' && c != '$') {
            return false;
        }
    }
    return !text.empty();
}

bool statement_reader::skip_comment()
{
    if (text_.compare(at_, 2, "//") == 0) {
        size_t end = text_.find('\n', at_);
        at_ = end == std::string::npos ? text_.size() : end;
        return true;
    }
    if (text_.compare(at_, 2, "/*") == 0) {
        size_t end = text_.find("*/", at_ + 2);
        end = end == std::string::npos ? text_.size() : end + 2;
        for (; at_ < end; at_++) {
            line_ += text_[at_] == '\n';
        }
        return true;
    }
    return false;
}

void statement_reader::append(statement *s, char c) const
{
    bool blank = isspace((unsigned char)c) != 0;
    if (s->text.empty()) {
        if (blank) {
            return;
        }
        s->line = line_;
    }
    if (!blank || s->text.back() != ' ') {
        s->text += blank ? ' ' : c;
    }
}

/* Looks at the character at at_ (not taken yet); true: it ends the statement. */
bool statement_reader::ends_here(statement *s)
{
    char c = text_[at_];
    const bool outside = depth_ == 0;
    if (c == '\n' && is_line(s->text)) {
        s->kind = PLAIN;
    } else if (c == ';' && outside) {
        s->kind = PLAIN;
    } else if (c == '{' && s->text.empty()) {
        s->kind = OPEN;
    } else if (c == '{' && outside && is_header(s->text)) {
        s->kind = HEADER;
    } else if (c == '}' && outside) {
        if (!s->text.empty()) {
            cuemu::fail({name_.c_str(), s->line}, "} within: %s", s->text.c_str());
        }
        s->kind = CLOSE;
    } else if (c == ':' && text_[at_ + 1] != ':' && is_identifier(s->text)) {
        s->kind = LABEL;
    } else {
        return false;
    }
    return true;
}

statement statement_reader::next()
{
    statement s = {END_OF_TEXT, "", line_};
    while (at_ < text_.size()) {
        if (text_[at_] == '/' && skip_comment()) {
            continue;
        }
        bool ends = ends_here(&s);
        char c = text_[at_++];
        if (ends) {
            line_ += c == '\n';
            if (s.kind == PLAIN && s.text.empty()) { /* a lone semicolon */
                continue;
            }
            if (s.kind == OPEN || s.kind == CLOSE) {
                s.line = line_;
            }
            s.text = trimmed(s.text);
            return s;
        }
        if (c == ':' && at_ < text_.size() && text_[at_] == ':') {
            s.text += "::";
            at_++;
            continue;
        }
        depth_ += c == '{';
        depth_ -= c == '}';
        append(&s, c);
        line_ += c == '\n';
    }
    if (!s.text.empty()) {
        cuemu::fail({name_.c_str(), s.line}, "the text ends within: %s", s.text.c_str());
    }
    return s;
}

std::string trimmed(const std::string &text)
{
    size_t begin = text.find_first_not_of(" \t\n"), end = text.find_last_not_of(" \t\n");
    return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

std::vector<std::string> split_list(const std::string &text)
{
    std::vector<std::string> parts;
    int depth = 0;
    std::string part;
    for (char c : text) {
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        if (c == ',' && depth == 0) {
            parts.push_back(trimmed(part));
            part.clear();
        } else {
            part += c;
        }
    }
    if (!trimmed(part).empty()) {
        parts.push_back(trimmed(part));
    }
    return parts;
}

bool immediate_parse(const std::string &text, uint64_t *ret)
{
    bool is_hex_float = begins_with(text, "0f") || begins_with(text, "0F") ||
                        begins_with(text, "0d") || begins_with(text, "0D");
    const char *digits = is_hex_float ? text.c_str() + 2 : text.c_str();
    char *end = nullptr;
    if (text.empty() || (isdigit((unsigned char)text[0]) == 0 && text[0] != '-')) {
        return false;
    }
    *ret = text[0] == '-' ? (uint64_t)strtoll(digits, &end, 0)
                          : strtoull(digits, &end, is_hex_float ? 16 : 0);
    return end != digits && (*end == '\0' || (*end == 'U' && end[1] == '\0'));
}

/* .u64 -> 8; 0: no type of data. */
static size_t bytes_of(const std::string &type)
{
    if (type.size() < 3 || strchr("busf", type[1]) == nullptr ||
        isdigit((unsigned char)type[2]) == 0) {
        return 0;
    }
    return (size_t)atoi(type.c_str() + 2) / 8;
}

static bool parse_values(const std::string &text, declaration *ret)
{
    std::string list = trimmed(text);
    if (list.size() > 1 && list.front() == '{' && list.back() == '}') {
        list = list.substr(1, list.size() - 2);
    }
    for (const std::string &item : split_list(list)) {
        uint64_t v;
        if (!immediate_parse(item, &v)) {
            return false;
        }
        ret->values.push_back(v);
    }
    return ret->values.size() * ret->element_bytes <= ret->n_bytes;
}

bool declaration_parse(const std::string &text, declaration *ret)
{
    *ret = {};
    size_t at = 0;
    bool pointee = false; /* what follows .ptr is said of what the parameter points to */
    while (at < text.size() && text[at] == '.') {
        size_t end = text.find(' ', at);
        if (end == std::string::npos) {
            return false;
        }
        std::string word = text.substr(at, end - at);
        at = end + 1;
        if (word == ".align") {
            size_t align = strtoull(text.c_str() + at, nullptr, 10);
            ret->align = pointee ? ret->align : align;
            at = text.find(' ', at);
            at = at == std::string::npos ? text.size() : at + 1;
        } else if (word == ".ptr") {
            pointee = true;
        } else if (bytes_of(word) != 0) {
            ret->element_bytes = bytes_of(word);
        }
    }
    size_t equals = text.find('=', at);
    std::string name = trimmed(text.substr(at, equals == std::string::npos ? equals : equals - at));
    size_t bracket = name.find('[');
    ret->name = trimmed(name.substr(0, bracket));
    ret->n_bytes = ret->element_bytes;
    while (bracket != std::string::npos) {
        ret->n_bytes *= strtoull(name.c_str() + bracket + 1, nullptr, 0);
        bracket = name.find('[', bracket + 1);
    }
    ret->align = ret->align > ret->element_bytes ? ret->align : ret->element_bytes;
    bool understood = ret->element_bytes != 0 && !ret->name.empty();
    return understood &&
           (equals == std::string::npos || parse_values(text.substr(equals + 1), ret));
}

bool operand_parse(const std::string &text, operand *ret)
{
    *ret = {};
    std::string s = text;
    if (s.empty()) {
        return false;
    }
    if (s[0] == '!') {
        ret->negated = true;
        s = trimmed(s.substr(1));
    }
    if (s[0] == '{' && s.back() == '}') {
        ret->names = split_list(s.substr(1, s.size() - 2));
        return !ret->names.empty();
    }
    if (s[0] == '[' && s.back() == ']') {
        ret->address = true;
        s = trimmed(s.substr(1, s.size() - 2));
        size_t plus = s.find('+');
        if (plus != std::string::npos) {
            uint64_t offset;
            if (!immediate_parse(trimmed(s.substr(plus + 1)), &offset)) {
                return false;
            }
            ret->offset = (int64_t)offset;
            s = trimmed(s.substr(0, plus));
        }
    }
    size_t bar = s.find('|');
    if (bar != std::string::npos) {
        ret->second = trimmed(s.substr(bar + 1));
        s = trimmed(s.substr(0, bar));
    }
    ret->names.push_back(s);
    return !s.empty();
}

} // namespace cuptx
