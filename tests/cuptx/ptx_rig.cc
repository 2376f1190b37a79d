/* ptx_rig.cc - see ptx_rig.h. Thread: one. */
#include "ptx_rig.h"

#include "opcode.h"

/* Every instruction that was tried: the row's name, the types, and one example of each row. */
static std::set<std::string> &tried()
{
    static auto &s = *new std::set<std::string>;
    return s;
}

static std::vector<std::pair<std::string, cuptx::instruction>> &examples()
{
    static auto &v = *new std::vector<std::pair<std::string, cuptx::instruction>>;
    return v;
}

static std::string variant(const cuptx::opcode *row, const cuptx::instruction &i)
{
    return std::string(row->name) + " " + std::to_string(i.type) + " " + std::to_string(i.from);
}

static void remember(const cuptx::kernel *k)
{
    for (size_t n = 0; n < k->code.size(); n++) {
        std::string text = k->text[n], wrong;
        if (text[0] == '@') {
            text = text.substr(text.find(' ') + 1);
        }
        cuptx::instruction i = k->code[n];
        cuptx::instruction again = {};
        const cuptx::opcode *row =
            cuptx::opcode_find(text.substr(0, text.find(' ')), &again, &wrong);
        if (tried().insert(variant(row, i)).second) {
            examples().emplace_back(row->name, i);
        }
    }
}

static bool is_untested(const cuptx::opcode *row, cuptx::scalar type, cuptx::scalar from)
{
    for (const auto &example : examples()) {
        if (example.first != row->name) {
            continue;
        }
        cuptx::instruction i = example.second;
        /* What has two types keeps them, what has one has one. */
        if ((i.type == cuptx::NO_TYPE) != (type == cuptx::NO_TYPE) ||
            (i.from == cuptx::NO_TYPE) != (from == cuptx::NO_TYPE)) {
            continue;
        }
        i.type = type;
        i.from = from;
        i.mode = row->mode;
        if (row->choose(i) != nullptr && tried().count(variant(row, i)) == 0) {
            return true;
        }
    }
    return false;
}

static int untested_of(const cuptx::opcode *row)
{
    int n = 0;
    bool seen = false;
    for (const auto &example : examples()) {
        seen = seen || example.first == row->name;
    }
    if (!seen) {
        printf("untested: %s\n", row->name);
        return 1;
    }
    /* Of a move or a select the type only says how wide a register is. */
    if (strcmp(row->name, "mov") == 0 || strcmp(row->name, "selp") == 0) {
        return 0;
    }
    for (int type = 0; type <= cuptx::PRED; type++) {
        for (int from = 0; from <= cuptx::PRED; from++) {
            if (is_untested(row, (cuptx::scalar)type, (cuptx::scalar)from)) {
                printf("untested: %s with types %d, %d\n", row->name, type, from);
                n++;
            }
        }
    }
    return n;
}

int ptx_untested()
{
    const cuptx::opcode_rows tables[] = {cuptx::integer_opcodes(), cuptx::float_opcodes(),
                                         cuptx::convert_opcodes(), cuptx::select_opcodes(),
                                         cuptx::memory_opcodes(),  cuptx::warp_opcodes()};
    int n = 0;
    for (const cuptx::opcode_rows &table : tables) {
        for (size_t i = 0; i < table.n; i++) {
            n += untested_of(&table.rows[i]);
        }
    }
    return n;
}

void ptx_launch(const std::string &module_text, dim3 grid, dim3 block, size_t dynamic_bytes,
                std::vector<void *> args)
{
    std::unique_ptr<cuptx::module> m = cuptx::module_parse("test", module_text);
    const cuptx::kernel *k = m->find("k");
    CHECK(k != nullptr);
    remember(k);
    kit_stream s;
    cudaLaunchConfig_t c = {};
    c.gridDim = grid;
    c.blockDim = block;
    c.dynamicSmemBytes = dynamic_bytes;
    c.stream = s.s;
    CHECK_OK(cuemu::launch(c, k, cuptx::kernel_body(m.get(), k, args.data(), dynamic_bytes)));
    s.sync();
}

std::string ptx_kernel(const std::string &body, const std::string &declarations)
{
    return ".version 9.0\n.target sm_80\n.address_size 64\n" + declarations +
           "\n.visible .entry k(\n.param .u64 k_in,\n.param .u64 k_out\n)\n{\n"
           "ld.param.u64 %in, [k_in];\nld.param.u64 %out, [k_out];\n" +
           body + "\nret;\n}\n";
}

std::vector<uint32_t> ptx_words(const std::string &text, const std::vector<uint32_t> &in,
                                size_t n_out, int n_threads, size_t dynamic_bytes)
{
    kit_array<uint32_t> from(in), to(std::vector<uint32_t>(n_out, 0));
    ptx_launch(text, 1, (unsigned)n_threads, dynamic_bytes, {&from.p, &to.p});
    return to.get();
}

void ptx_expect_abort(const char *sentence, const std::string &body,
                      const std::string &declarations)
{
    kit_expect_abort(sentence, [&] {
        std::vector<uint32_t> in(8, 1);
        ptx_words(ptx_kernel(body, declarations), in, 8, 1);
    });
}

void ptx_batch::add(const std::string &code, const std::vector<uint64_t> &in, uint64_t want,
                    int bits)
{
    one c = {code, {0, 0, 0, 0}, want, bits};
    for (size_t i = 0; i < in.size(); i++) {
        c.in[i] = in[i];
    }
    cases_.push_back(c);
}

void ptx_batch::run()
{
    std::vector<uint64_t> in;
    std::string body;
    for (size_t n = 0; n < cases_.size(); n++) {
        const char *names[] = {"%a", "%b", "%c", "%d"};
        for (size_t i = 0; i < 4; i++) {
            in.push_back(cases_[n].in[i]);
            body += std::string("ld.global.u64 ") + names[i] + ", [%in+" +
                    std::to_string(n * 32 + i * 8) + "];\n";
        }
        body += cases_[n].code + "\nst.global.u64 [%out+" + std::to_string(n * 8) + "], %x;\n";
    }
    kit_array<uint64_t> from(in), to(cases_.size());
    ptx_launch(ptx_kernel(body), 1, 1, 0, {&from.p, &to.p});
    std::vector<uint64_t> got = to.get();
    for (size_t n = 0; n < cases_.size(); n++) {
        const one &c = cases_[n];
        uint64_t mask = c.bits == 64 ? ~(uint64_t)0 : ((uint64_t)1 << c.bits) - 1;
        if (((got[n] ^ c.want) & mask) != 0) {
            printf("%s of %#llx %#llx %#llx %#llx: %#llx, not %#llx\n", c.code.c_str(),
                   (unsigned long long)c.in[0], (unsigned long long)c.in[1],
                   (unsigned long long)c.in[2], (unsigned long long)c.in[3],
                   (unsigned long long)(got[n] & mask), (unsigned long long)(c.want & mask));
            kit_check(false, "a case of PTX", cuemu::here());
        }
    }
}
