// Drives one module's streams from files and checks the handshake rules at every cycle.
//
// usage: simulation IN_FOLDER OUT_FOLDER LIMIT SETTLE SEED CHECK_PATHS, then for every stream,
// inputs first: STALL_PROBABILITY EXPECTED_BEATS (inputs: the cycle before which nothing is offered)
// Reads IN_FOLDER/<input>.bin and streams.txt (streams.cpp), writes OUT_FOLDER/<output>.bin and OUT_FOLDER/<stream>.cycles. The
// model's $time is the number of the cycle after the reset, as in <stream>.cycles.
// Exit status: 0 done, 3 nothing moves any more, 4 a rule of the handshake was broken.
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "verilated.h"

// What the simulated model gives; compiled with -DMODEL this file is that side, else the rest.
struct Wires {
    const char* name;
    size_t bytes;
    bool input;
    void* data;
    uint8_t *valid, *ready;
};
std::vector<Wires> open_model(VerilatedContext* context, uint8_t** clock, uint8_t** reset_n);
void evaluate();
void close_model();
void watch_streams(const std::string& folder);
void store_streams(const std::string& folder);

#ifdef MODEL
#include "Vtop.h"

static Vtop* top;

std::vector<Wires> open_model(VerilatedContext* context, uint8_t** clock, uint8_t** reset_n) {
    top = new Vtop{context};
    *clock = &top->ap_clk;
    *reset_n = &top->ap_rst_n;
    return {
#define PORT(stream, bytes, input)                                                       \
    {#stream, bytes, input, &top->stream##_tdata, &top->stream##_tvalid, &top->stream##_tready},
#include "ports.h"
    };
}
void evaluate() { top->eval(); }
void close_model() { top->final(); }
#else

enum { DEADLOCK = 3, BROKEN_RULE = 4 };

struct Random {
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed * 0x9E3779B97F4A7C15ull + 0x1234567ull) {
        for (int i = 0; i < 4; i++) next();
    }
    uint64_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state;
    }
    bool happens(double probability) { return (next() >> 11) * 0x1.0p-53 < probability; }
};

struct Stream : Wires {
    double stall = 0;
    size_t beats = 0, done = 0;
    uint64_t start = 0;
    std::vector<uint8_t> content = {};
    std::vector<uint64_t> cycles = {};
    Random random{1};
    // what an output offered in the cycle before without being taken
    bool waited = false;
    std::vector<uint8_t> offered = {};

    const uint8_t* now() const { return static_cast<const uint8_t*>(data); }
};

static std::string join(const char* folder, const char* name, const char* suffix) {
    return std::string(folder) + "/" + name + suffix;
}

static void store(const std::string& path, const void* from, size_t bytes) {
    FILE* file = fopen(path.c_str(), "wb");
    if (!file || fwrite(from, 1, bytes, file) != bytes || fclose(file)) {
        perror(path.c_str());
        exit(1);
    }
}

static std::vector<uint8_t> load(const std::string& path) {
    FILE* file = fopen(path.c_str(), "rb");
    if (!file) {
        perror(path.c_str());
        exit(1);
    }
    std::vector<uint8_t> content;
    uint8_t block[65536];
    for (size_t n; (n = fread(block, 1, sizeof block, file)) > 0;)
        content.insert(content.end(), block, block + n);
    fclose(file);
    return content;
}

[[noreturn]] static void stop(int status, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(status);
}

int main(int argc, char** argv) {
    const std::unique_ptr<VerilatedContext> context{new VerilatedContext};
    if (argc < 7) stop(1, "too few arguments");
    const char *from = argv[1], *to = argv[2];
    const uint64_t limit = strtoull(argv[3], nullptr, 10);
    const uint64_t settle = strtoull(argv[4], nullptr, 10);
    const uint64_t seed = strtoull(argv[5], nullptr, 10);
    const bool check_paths = atoi(argv[6]);
    watch_streams(from);
    // registers without a reset start with random values
    context->randReset(2);
    context->randSeed(static_cast<int>(seed % 1000000) + 1);
    uint8_t *clock, *reset_n;
    std::vector<Stream> inputs, outputs;
    for (auto& wires : open_model(context.get(), &clock, &reset_n))
        (wires.input ? inputs : outputs).push_back(Stream{wires});
    std::vector<Stream*> all;
    for (auto& s : inputs) all.push_back(&s);
    for (auto& s : outputs) all.push_back(&s);
    if (argc != 7 + 2 * static_cast<int>(all.size())) stop(1, "wrong number of arguments");
    for (size_t i = 0; i < all.size(); i++) {
        all[i]->stall = atof(argv[7 + 2 * i]);
        all[i]->beats = strtoull(argv[8 + 2 * i], nullptr, 10);
        all[i]->random = Random(seed * 64 + i + 1);
    }
    for (auto& s : inputs) {
        s.content = load(join(from, s.name, ".bin"));
        s.start = s.beats;
        s.beats = s.content.size() / s.bytes;
        *s.valid = 0;
    }
    for (auto& s : outputs) *s.ready = 0;

    *reset_n = 0;
    for (int i = 0; i < 8; i++) {
        *clock = 0;
        evaluate();
        *clock = 1;
        evaluate();
    }
    *reset_n = 1;

    uint64_t idle = 0, after = 0;
    std::vector<uint8_t> valid_before(outputs.size()), ready_before(inputs.size());
    std::vector<std::vector<uint8_t>> data_before(outputs.size());
    for (uint64_t cycle = 0;; cycle++) {
        bool complete = true;
        for (auto& s : outputs) complete = complete && s.done == s.beats;
        if (complete && after++ == settle) break;
        for (auto& s : inputs) {
            if (!*s.valid) {
                *s.valid = cycle >= s.start && s.done < s.beats && !s.random.happens(s.stall);
                auto* data = static_cast<uint8_t*>(s.data);
                if (*s.valid)
                    memcpy(data, &s.content[s.done * s.bytes], s.bytes);
                else  // nothing may depend on the data of a beat that is not offered
                    for (size_t i = 0; i < s.bytes; i++) data[i] = s.random.next() >> 40;
            }
        }
        for (auto& s : outputs) *s.ready = complete || !s.random.happens(s.stall);
        context->time(cycle);
        *clock = 0;
        evaluate();

        for (auto& s : outputs) {
            if (!s.waited) continue;
            if (!*s.valid)
                stop(BROKEN_RULE, "%s: tvalid fell in cycle %llu before tready; beat %zu", s.name,
                     static_cast<unsigned long long>(cycle), s.done);
            if (memcmp(s.data, s.offered.data(), s.bytes))
                stop(BROKEN_RULE, "%s: tdata changed in cycle %llu before tready; beat %zu", s.name,
                     static_cast<unsigned long long>(cycle), s.done);
        }
        if (check_paths) {
            for (size_t i = 0; i < outputs.size(); i++) {
                auto& s = outputs[i];
                valid_before[i] = *s.valid;
                data_before[i].assign(s.now(), s.now() + s.bytes);
                *s.ready = !*s.ready;
            }
            for (size_t i = 0; i < inputs.size(); i++) ready_before[i] = *inputs[i].ready;
            evaluate();
            for (size_t i = 0; i < outputs.size(); i++) {
                auto& s = outputs[i];
                if (*s.valid != valid_before[i] ||
                    (*s.valid && memcmp(s.data, data_before[i].data(), s.bytes)))
                    stop(BROKEN_RULE, "%s: a combinational path from a tready, in cycle %llu",
                         s.name, static_cast<unsigned long long>(cycle));
                *s.ready = !*s.ready;
            }
            for (size_t i = 0; i < inputs.size(); i++)
                if (*inputs[i].ready != ready_before[i])
                    stop(BROKEN_RULE, "%s: a combinational path from an output's tready to its "
                         "tready, in cycle %llu", inputs[i].name,
                         static_cast<unsigned long long>(cycle));
            evaluate();
        }

        bool moved = false;
        std::vector<Stream*> taken;
        for (auto& s : inputs)
            if (*s.valid && *s.ready) taken.push_back(&s);
        for (auto& s : outputs) {
            s.waited = *s.valid && !*s.ready;
            if (s.waited) s.offered.assign(s.now(), s.now() + s.bytes);
            if (!*s.valid || !*s.ready) continue;
            if (s.done == s.beats)
                stop(BROKEN_RULE, "%s: more than the expected %zu beats, in cycle %llu", s.name,
                     s.beats, static_cast<unsigned long long>(cycle));
            s.content.insert(s.content.end(), s.now(), s.now() + s.bytes);
            s.cycles.push_back(cycle);
            s.done++;
            moved = true;
        }
        *clock = 1;
        evaluate();
        for (auto* s : taken) {
            s->cycles.push_back(cycle);
            s->done++;
            *s->valid = 0;
            moved = true;
        }
        idle = moved || complete ? 0 : idle + 1;
        if (idle >= limit) {
            std::string state;
            for (auto* s : all)
                state += std::string("; ") + s->name + " " + std::to_string(s->done) + " of " +
                         std::to_string(s->beats) + " beats (tvalid " +
                         std::to_string(int(*s->valid)) + ", tready " +
                         std::to_string(int(*s->ready)) + ")";
            stop(DEADLOCK, "nothing moved for %llu cycles until cycle %llu%s",
                 static_cast<unsigned long long>(limit), static_cast<unsigned long long>(cycle),
                 state.c_str());
        }
    }
    for (auto& s : inputs)
        if (s.done != s.beats)
            stop(BROKEN_RULE, "%s: only %zu of %zu beats were taken when all outputs were done",
                 s.name, s.done, s.beats);
    close_model();
    store_streams(to);
    for (auto& s : outputs) store(join(to, s.name, ".bin"), s.content.data(), s.content.size());
    for (auto* s : all)
        store(join(to, s->name, ".cycles"), s->cycles.data(), s->cycles.size() * 8);
    return 0;
}
#endif
