// What a simulation sees of the streams inside a design: of each a checksum per image, or all words.
//
// The modules call the functions below under VERILATOR, see fifo.sv. IN_FOLDER/streams.txt has a
// line for each stream that is watched: the name of its instance, 64-bit words of an image (0: no
// checksum), rows and segments of its FIFO (0: as compiled), 1 where its words are kept. It writes
// OUT_FOLDER/streams.txt, a line for each image that went through whole, instance and checksum, and
// OUT_FOLDER/INSTANCE.words, what was kept. The checksum is the sum of mix(word ^ mix(position +
// STEP)) modulo 2^64, mix being the end of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): it changes
// with a word's value and its place.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {
struct Watched {
    std::string name;
    uint64_t words, rows, segments;
    bool keeps;
    uint64_t position = 0, sum = 0;
    std::vector<uint64_t> sums = {}, kept = {};
};
std::vector<Watched> watched;

uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

FILE* open_or_stop(const std::string& path, const char* mode) {
    FILE* file = fopen(path.c_str(), mode);
    if (!file) {
        perror(path.c_str());
        exit(1);
    }
    return file;
}
}  // namespace

void watch_streams(const std::string& folder) {
    FILE* file = open_or_stop(folder + "/streams.txt", "r");
    char name[256];
    unsigned long long words, rows, segments;
    int keeps;
    while (fscanf(file, "%255s %llu %llu %llu %d", name, &words, &rows, &segments, &keeps) == 5)
        watched.push_back(Watched{name, words, rows, segments, keeps != 0});
    fclose(file);
}

void store_streams(const std::string& folder) {
    FILE* file = open_or_stop(folder + "/streams.txt", "w");
    for (auto& stream : watched) {
        for (auto sum : stream.sums)
            fprintf(file, "%s %llu\n", stream.name.c_str(), static_cast<unsigned long long>(sum));
        if (!stream.keeps) continue;
        FILE* words = open_or_stop(folder + "/" + stream.name + ".words", "wb");
        fwrite(stream.kept.data(), 8, stream.kept.size(), words);
        fclose(words);
    }
    fclose(file);
}

// The number of the stream at the end of a hierarchical path, or -1 where it is not watched.
extern "C" int stream_open(const char* path) {
    const std::string text = path;
    const std::string name = text.substr(text.rfind('.') + 1);
    for (size_t i = 0; i < watched.size(); i++)
        if (watched[i].name == name) return static_cast<int>(i);
    return -1;
}

// The value of a run where it has one, else the compiled one, which it must not exceed.
static int at_most(int stream, uint64_t value, int compiled, const char* what) {
    if (value > static_cast<uint64_t>(compiled)) {
        fprintf(stderr, "%s: %llu %s, expected at most %d, with which it was compiled\n",
                watched[stream].name.c_str(), static_cast<unsigned long long>(value), what, compiled);
        exit(1);
    }
    return value ? static_cast<int>(value) : compiled;
}

// The segments of a stream's FIFO.
extern "C" int stream_segments(int stream, int compiled) {
    return at_most(stream, stream < 0 ? 0 : watched[stream].segments, compiled, "segments");
}

// The rows of each of its segments; the first was compiled with the rows of all.
extern "C" int stream_rows(int stream, int compiled, int segments) {
    const bool alone = stream >= 0 && watched[stream].segments == 1;
    if (stream < 0 || !watched[stream].rows) return compiled;
    return at_most(stream, watched[stream].rows, alone ? compiled * segments : compiled, "rows");
}

extern "C" void stream_word(int stream, unsigned long long word) {
    auto& s = watched[stream];
    if (!s.words) return;
    if (s.keeps) s.kept.push_back(word);
    s.sum += mix(word ^ mix(s.position + 0x9E3779B97F4A7C15ull));
    if (++s.position < s.words) return;
    s.sums.push_back(s.sum);
    s.position = s.sum = 0;
}
