// Mamba's selective scan in fixed point for Vitis HLS: PD * PN states are updated in an iteration.
//
// Streams, order and lanes are those of fpga/operators/selective_scan.sv: in0 x and in1 dt, PD channels a
// beat; in2 B and in3 C, PN states a beat; out0 y, PD channels a beat. Lane 0 is in the low bits. A
// call is a frame of LENGTH tokens. For tests the same code can put out its ACCUMULATORS, before any
// rounding, in the place of y.
//
// Every number comes from lmaunet.scan.integer.IntegerScan through selective_scan_config.hpp and the
// tables in selective_scan_*.inc. SUM_BITS is a sum that is cut, with its sign and the half that
// rounds it; DROP the fractional bits that a cut loses (a negative one appends zeros); ALIGN zeros
// below a term of a sum.
//
// The pragmas ask for one iteration a cycle. Whether Vitis reaches that, at which clock and with
// which resources, only its synthesis tells; C simulation does not see them.
#ifndef SELECTIVE_SCAN_HPP
#define SELECTIVE_SCAN_HPP

#include <ap_int.h>
#include <hls_stream.h>

#include "selective_scan_config.hpp"

// A pragma whose text has macros in it: Vitis takes a distance as a literal only.
#define SELECTIVE_SCAN_PRAGMA_TEXT(text) _Pragma(#text)
#define SELECTIVE_SCAN_PRAGMA(text) SELECTIVE_SCAN_PRAGMA_TEXT(text)

namespace selective_scan_core {

constexpr int CHANNEL_FOLDS = CHANNELS / PD;
constexpr int STATE_FOLDS = STATES / PN;
constexpr int LANES = PD * PN;
static_assert(CHANNELS % PD == 0 && STATES % PN == 0, "PD must divide CHANNELS, PN STATES");
static_assert(SELECTIVE_SCAN_UPDATES == CHANNEL_FOLDS * STATE_FOLDS, "updates of a token");
static_assert(SELECTIVE_SCAN_UPDATES >= STATE_LOOP, "a lane needs more states");

constexpr int bits_for(int codes) { return codes > 1 ? 1 + bits_for((codes + 1) / 2) : 0; }

typedef ap_int<INPUT_BITS> Input;
typedef ap_uint<DELTA_BITS> Delta;
typedef ap_uint<RATE_BITS> Rate;
typedef ap_uint<DECAY_BITS> Decay;
typedef ap_int<DRIVE_BITS> Drive;
typedef ap_int<STATE_BITS> State;
typedef ap_int<STATE_BITS + INPUT_BITS + bits_for(STATES)> Total;
typedef ap_int<ACCUMULATOR_IN_BITS> Accumulator;
typedef ap_int<OUTPUT_BITS> Output;

template <bool ACCUMULATORS>
struct Result {
    static const int BITS = ACCUMULATORS ? ACCUMULATOR_IN_BITS : OUTPUT_BITS;
    typedef ap_uint<(PD * BITS + 7) / 8 * 8> Beat;
    typedef hls::stream<Beat> Stream;
};
typedef ap_uint<PD * INPUT_BITS> ChannelBeat;
typedef ap_uint<PN * INPUT_BITS> StateBeat;
typedef hls::stream<ChannelBeat> ChannelStream;
typedef hls::stream<StateBeat> StateStream;

// Drops low bits and rounds half up; the sum has room for the half.
template <int DROP, int BITS>
ap_int<BITS - DROP> rounded(const ap_int<BITS>& sum) {
#pragma HLS INLINE
    constexpr int DROPPED = DROP > 0 ? DROP : 0, APPENDED = DROP < 0 ? -DROP : 0;
    const ap_uint<BITS> half = (ap_uint<BITS>(1) << DROPPED) >> 1;
    const ap_int<BITS> with_half = sum + half;
    return ap_int<BITS + APPENDED>(with_half >> DROPPED) << APPENDED;
}

template <int TO, int BITS>
ap_int<TO> to_signed(const ap_int<BITS>& value) {
#pragma HLS INLINE
    const ap_int<TO> low = ap_int<TO>(1) << (TO - 1), high = ~low;
    return value > high ? high : value < low ? low : ap_int<TO>(value);
}

// The value is not negative.
template <int TO, int BITS>
ap_uint<TO> to_unsigned(const ap_int<BITS>& value) {
#pragma HLS INLINE
    const ap_uint<TO> high = ~ap_uint<TO>(0);
    return value > high ? high : ap_uint<TO>(value);
}

template <int BITS>
Input lane(const ap_uint<BITS>& beat, int index) {
#pragma HLS INLINE
    return ap_uint<INPUT_BITS>(beat.range((index + 1) * INPUT_BITS - 1, index * INPUT_BITS));
}

// Each channel looks its own dt up, in the same cycle: rom_np copies the table for that.
inline Delta softplus(const Input& dt) {
#pragma HLS INLINE
    static const Delta table[] = {
#include "selective_scan_softplus.inc"
    };
#pragma HLS BIND_STORAGE variable=table type=rom_np
    return table[ap_uint<INPUT_BITS>(dt).to_uint()];
}

// 2 ** -(delta * rate). The fraction of the exponent selects a straight line, its integer part
// shifts the line's value right.
inline Decay decay_of(const Delta& delta, const Rate& rate) {
#pragma HLS INLINE
    constexpr int LOW_BITS = EXPONENT_FRAC - SEGMENT_BITS;
    constexpr int WHOLE_BITS = EXPONENT_BITS > EXPONENT_FRAC ? EXPONENT_BITS - EXPONENT_FRAC : 1;
    static const ap_uint<VALUE_BITS> values[] = {
#include "selective_scan_value.inc"
    };
    static const ap_int<FALL_BITS> falls[] = {
#include "selective_scan_fall.inc"
    };
#pragma HLS BIND_STORAGE variable=values type=rom_np
#pragma HLS BIND_STORAGE variable=falls type=rom_np
    const ap_int<EXPONENT_SUM_BITS> product = delta * rate;
    const ap_uint<WHOLE_BITS + EXPONENT_FRAC> exponent =
        to_unsigned<EXPONENT_BITS>(rounded<EXPONENT_DROP>(product));
    const ap_uint<WHOLE_BITS> whole = exponent >> EXPONENT_FRAC;
    const ap_uint<SEGMENT_BITS> segment = exponent >> LOW_BITS;
    const ap_uint<LOW_BITS> low = exponent;

    // No line leaves the range of its ends, so that the cut has nothing to saturate.
    typedef ap_int<VALUE_BITS + LOW_BITS + 1> Line;
    const Line line = (Line(values[segment.to_uint()]) << LOW_BITS) + falls[segment.to_uint()] * low;
    const ap_uint<VALUE_BITS> mantissa = rounded<LOW_BITS>(line);

    // One bit below the decay's last to round by; what is shifted further out decides nothing.
    constexpr int APPENDED = 1 + (DECAY_DROP < 0 ? -DECAY_DROP : 0);
    constexpr int DROPPED = DECAY_DROP > 0 ? DECAY_DROP : 0;
    typedef ap_uint<VALUE_BITS + APPENDED> Shifted;
    const int shift = whole > DEEPEST_SHIFT ? DEEPEST_SHIFT : whole.to_int();
    const Shifted shifted = (Shifted(mantissa) << APPENDED) >> shift;
    const ap_int<VALUE_BITS + APPENDED + 2> doubled = Shifted(shifted >> DROPPED);
    return to_unsigned<DECAY_BITS>(rounded<1>(doubled));
}

// delta * x * 2 ** shift.
inline Drive drive_of(const Delta& delta, const Input& x, const ap_uint<SHIFT_BITS>& shift) {
#pragma HLS INLINE
    const ap_int<INPUT_BITS + LARGEST_SHIFT> lifted =
        ap_int<INPUT_BITS + LARGEST_SHIFT>(x) << shift.to_int();
    const ap_int<DRIVE_SUM_BITS> product = lifted * delta;
    return to_signed<DRIVE_BITS>(rounded<DRIVE_DROP>(product));
}

inline State advanced(const State& old, const Decay& decay, const Drive& drive, const Input& b) {
#pragma HLS INLINE
    typedef ap_int<STATE_SUM_BITS> Sum;
    const Sum decayed = decay * old, inflow = drive * b;
    const Sum sum = (decayed << DECAYED_ALIGN) + (inflow << INFLOW_ALIGN);
    return to_signed<STATE_BITS>(rounded<STATE_DROP>(sum));
}

// 2 ** -shift * total + skip * x, where all channels get the fractional bits of the largest shift.
inline Accumulator accumulated(const Total& total, const ap_uint<LOWER_BITS>& lower,
                               const ap_int<SKIP_BITS>& skip, const Input& x) {
#pragma HLS INLINE
    const Accumulator lowered = Accumulator(total) << lower.to_int(), skipped = skip * x;
    return (lowered << READ_ALIGN) + (skipped << SKIP_ALIGN);
}

inline Output output_of(const Accumulator& accumulator) {
#pragma HLS INLINE
    const ap_int<ACCUMULATOR_IN_BITS + 1> sum = accumulator;
    const ap_int<ACCUMULATOR_BITS> narrow =
        to_signed<ACCUMULATOR_BITS>(rounded<ACCUMULATOR_DROP>(sum));
    const ap_int<OUTPUT_SUM_BITS> product = narrow * ap_uint<GAIN_BITS>(GAIN);
    return to_signed<OUTPUT_BITS>(rounded<OUTPUT_DROP>(product));
}

template <bool ACCUMULATORS>
void frame(ChannelStream& x_stream, ChannelStream& dt_stream, StateStream& b_stream,
           StateStream& c_stream, typename Result<ACCUMULATORS>::Stream& out) {
    // so that the top function has the loops and nothing else
#pragma HLS INLINE
    static const Rate rates[SELECTIVE_SCAN_UPDATES][LANES] = {
#include "selective_scan_rate.inc"
    };
    static const ap_uint<SHIFT_BITS> shifts[CHANNEL_FOLDS][PD] = {
#include "selective_scan_shift.inc"
    };
    static const ap_uint<LOWER_BITS> lowers[CHANNEL_FOLDS][PD] = {
#include "selective_scan_lower.inc"
    };
    static const ap_int<SKIP_BITS> skips[CHANNEL_FOLDS][PD] = {
#include "selective_scan_skip.inc"
    };
    // What a frame begins with does not matter: its first token reads no state.
    State states[SELECTIVE_SCAN_UPDATES][LANES];
    // A token's B and C, which all its channels need; they are kept as they come for the first.
    StateBeat b_token[STATE_FOLDS], c_token[STATE_FOLDS];
    ChannelBeat x_beat, dt_beat;
    Total totals[PD];

    // All lanes work at once, so each has its own memory: the second index is always a constant.
#pragma HLS ARRAY_PARTITION variable=rates type=complete dim=2
#pragma HLS ARRAY_PARTITION variable=shifts type=complete dim=2
#pragma HLS ARRAY_PARTITION variable=lowers type=complete dim=2
#pragma HLS ARRAY_PARTITION variable=skips type=complete dim=2
#pragma HLS ARRAY_PARTITION variable=states type=complete dim=2
#pragma HLS ARRAY_PARTITION variable=totals type=complete
    // Registers: with few states a word is read in the iteration after the one that wrote it.
#pragma HLS ARRAY_PARTITION variable=b_token type=complete
#pragma HLS ARRAY_PARTITION variable=c_token type=complete
    // A port to read and one to write: an iteration does both, at the same address.
#pragma HLS BIND_STORAGE variable=states type=ram_s2p
    // What an iteration writes is read SELECTIVE_SCAN_UPDATES iterations later and not before, so
    // that reading, advancing and writing a state may take as many cycles. This is the truth about
    // the loops below, not a promise that the tool could break: where its path takes longer it must
    // raise the II. fpga/operators/selective_scan.sv takes STATE_LOOP cycles.
    SELECTIVE_SCAN_PRAGMA(HLS DEPENDENCE variable=states type=inter direction=RAW \
                          distance=SELECTIVE_SCAN_UPDATES true)

tokens:
    for (int token = 0; token < LENGTH; token++) {
    channel_folds:
        for (int channel_fold = 0; channel_fold < CHANNEL_FOLDS; channel_fold++) {
        state_folds:
            for (int state_fold = 0; state_fold < STATE_FOLDS; state_fold++) {
                // Perfectly nested, so that the three loops become one and only a frame's end
                // drains the pipeline. Not `rewind`, which has none that drains: a frame's last
                // outputs would wait for the next frame's first inputs.
#pragma HLS LOOP_FLATTEN
#pragma HLS PIPELINE II=1
                if (state_fold == 0) {
                    x_beat = x_stream.read();
                    dt_beat = dt_stream.read();
                }
                if (channel_fold == 0) {
                    b_token[state_fold] = b_stream.read();
                    c_token[state_fold] = c_stream.read();
                }
                const StateBeat b_beat = b_token[state_fold], c_beat = c_token[state_fold];
                const int update = channel_fold * STATE_FOLDS + state_fold;
                typename Result<ACCUMULATORS>::Beat result = 0;

            channels:
                for (int d = 0; d < PD; d++) {
#pragma HLS UNROLL
                    const Input x = lane(x_beat, d);
                    const Delta delta = softplus(lane(dt_beat, d));
                    const Drive drive = drive_of(delta, x, shifts[channel_fold][d]);
                    Total sum = 0;
                lanes:
                    for (int n = 0; n < PN; n++) {
#pragma HLS UNROLL
                        const int i = d * PN + n;
                        const State old = token == 0 ? State(0) : states[update][i];
                        const State state = advanced(old, decay_of(delta, rates[update][i]), drive,
                                                     lane(b_beat, n));
                        states[update][i] = state;
                        sum += lane(c_beat, n) * state;
                    }
                    totals[d] = state_fold == 0 ? sum : Total(totals[d] + sum);
                    if (state_fold == STATE_FOLDS - 1) {
                        constexpr int BITS = Result<ACCUMULATORS>::BITS;
                        const Accumulator accumulator = accumulated(
                            totals[d], lowers[channel_fold][d], skips[channel_fold][d], x);
                        if (ACCUMULATORS)
                            result.range((d + 1) * BITS - 1, d * BITS) = accumulator;
                        else
                            result.range((d + 1) * BITS - 1, d * BITS) = output_of(accumulator);
                    }
                }
                if (state_fold == STATE_FOLDS - 1) out.write(result);
            }
        }
    }
}

}  // namespace selective_scan_core

// The kernel; its ports are in0_V_TDATA and so on.
void selective_scan(selective_scan_core::ChannelStream& in0_V,
                    selective_scan_core::ChannelStream& in1_V,
                    selective_scan_core::StateStream& in2_V, selective_scan_core::StateStream& in3_V,
                    selective_scan_core::Result<false>::Stream& out0_V);

#endif
