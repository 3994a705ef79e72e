// Runs frames through the kernel, and through the same code with its accumulators put out.
//
// Reads in0.bin to in3.bin in the current folder: one beat after the other, each in whole bytes, the
// low one first. Without arguments the outputs must be those in y.bin and accumulators.bin; with
// "record" they are written there. Status 1 for a difference, 2 for files that do not fit.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "selective_scan.hpp"

using namespace selective_scan_core;

typedef std::vector<unsigned char> Bytes;

static bool load(const char* name, Bytes& bytes) {
    std::FILE* file = std::fopen(name, "rb");
    if (!file) return false;
    unsigned char block[4096];
    for (size_t got; (got = std::fread(block, 1, sizeof block, file)) > 0;)
        bytes.insert(bytes.end(), block, block + got);
    std::fclose(file);
    return true;
}

template <int BITS>
static ap_uint<BITS> beat_of(const Bytes& bytes, size_t index) {
    ap_uint<BITS> beat = 0;
    for (int i = 0; i < BITS / 8; i++) beat.range(8 * i + 7, 8 * i) = bytes[index * (BITS / 8) + i];
    return beat;
}

template <int BITS>
static void feed(hls::stream<ap_uint<BITS> >& stream, const Bytes& bytes, size_t frame, size_t beats) {
    for (size_t i = 0; i < beats; i++) stream.write(beat_of<BITS>(bytes, frame * beats + i));
}

// Takes a frame's beats; false where there are not exactly as many.
template <int BITS>
static bool take(hls::stream<ap_uint<BITS> >& stream, Bytes& bytes, size_t beats) {
    for (size_t i = 0; i < beats; i++) {
        if (stream.empty()) return false;
        const ap_uint<BITS> beat = stream.read();
        for (int j = 0; j < BITS / 8; j++)
            bytes.push_back(ap_uint<8>(beat.range(8 * j + 7, 8 * j)).to_uint());
    }
    return stream.empty();
}

static int finish(const char* name, const Bytes& got, bool record) {
    if (record) {
        std::FILE* file = std::fopen(name, "wb");
        const bool written = file && std::fwrite(got.data(), 1, got.size(), file) == got.size();
        return file && std::fclose(file) == 0 && written ? 0 : 2;
    }
    Bytes expected;
    if (!load(name, expected) || expected.size() != got.size()) {
        std::printf("%s: %zu bytes, expected %zu\n", name, expected.size(), got.size());
        return 2;
    }
    size_t differ = 0;
    for (size_t i = 0; i < got.size(); i++) differ += got[i] != expected[i];
    std::printf("%s: %zu of %zu bytes differ\n", name, differ, got.size());
    return differ ? 1 : 0;
}

int main(int argc, char** argv) {
    const bool record = argc > 1 && std::strcmp(argv[1], "record") == 0;
    const size_t channel_beats = size_t(LENGTH) * CHANNEL_FOLDS;
    const size_t state_beats = size_t(LENGTH) * STATE_FOLDS;
    const size_t bytes[4] = {channel_beats * PD, channel_beats * PD, state_beats * PN,
                             state_beats * PN};
    Bytes in[4];
    for (int i = 0; i < 4; i++) {
        const std::string name = "in" + std::to_string(i) + ".bin";
        if (!load(name.c_str(), in[i]) || in[i].size() % bytes[i] ||
            in[i].size() / bytes[i] != in[0].size() / bytes[0]) {
            std::printf("%s: %zu bytes, a frame has %zu\n", name.c_str(), in[i].size(), bytes[i]);
            return 2;
        }
    }
    ChannelStream x, dt;
    StateStream b, c;
    Result<false>::Stream y;
    Result<true>::Stream accumulators;
    Bytes y_bytes, accumulator_bytes;
    for (size_t frame_index = 0; frame_index < in[0].size() / bytes[0]; frame_index++) {
        for (int run = 0; run < 2; run++) {
            feed(x, in[0], frame_index, channel_beats);
            feed(dt, in[1], frame_index, channel_beats);
            feed(b, in[2], frame_index, state_beats);
            feed(c, in[3], frame_index, state_beats);
            if (run)
                frame<true>(x, dt, b, c, accumulators);
            else
                selective_scan(x, dt, b, c, y);
            if (!x.empty() || !dt.empty() || !b.empty() || !c.empty()) {
                std::printf("frame %zu: not all of its beats were read\n", frame_index);
                return 1;
            }
        }
        if (!take(y, y_bytes, channel_beats) ||
            !take(accumulators, accumulator_bytes, channel_beats)) {
            std::printf("frame %zu: not %zu beats put out\n", frame_index, channel_beats);
            return 1;
        }
    }
    const int status = finish("y.bin", y_bytes, record);
    const int other = finish("accumulators.bin", accumulator_bytes, record);
    return status > other ? status : other;
}
