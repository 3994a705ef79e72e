// Mamba's selective scan in fixed point, all states on chip: PD * PN states are updated each cycle.
//
// Streams: in0 x and in1 dt, PD channels a beat; in2 B and in3 C, PN states a beat; out0 y, PD
// channels a beat, with WIDE_OUTPUT each below its accumulator before any rounding.
//
// The arithmetic and every number come from lmaunet.scan.integer.IntegerScan: widths in bits,
// DROP for the fractional bits that a cut loses (a negative one appends zeros), ALIGN for zeros
// below a term of a sum, SUM_BITS for a sum that is cut, with its sign and the half that rounds it.
//
// Interval of a frame: LENGTH * (CHANNELS / PD) * (STATES / PN) cycles. The pipeline never stops:
// what is issued has a place in the output queue. A number is named with the cycle in which it is
// there, counted from the issue of its update. A state is written 5 cycles after it was read, so
// that (CHANNELS / PD) * (STATES / PN) must be 6 or more.
`default_nettype none

module selective_scan #(
    parameter int CHANNELS = 6,
    parameter int STATES = 1,
    parameter int LENGTH = 1,
    parameter int PD = 1,
    parameter int PN = 1,
    parameter bit WIDE_OUTPUT = 0,

    parameter int INPUT_BITS = 8,
    parameter int DELTA_BITS = 16,
    parameter int RATE_BITS = 12,
    parameter int EXPONENT_SUM_BITS = 30,
    parameter int EXPONENT_DROP = 7,
    parameter int EXPONENT_BITS = 21,
    parameter int EXPONENT_FRAC = 16,
    parameter int SEGMENT_BITS = 5,
    parameter int VALUE_BITS = 16,
    parameter int FALL_BITS = 11,
    parameter int DEEPEST_SHIFT = 17,
    parameter int DECAY_DROP = 0,
    parameter int DECAY_BITS = 16,
    parameter int SHIFT_BITS = 4,
    parameter int LARGEST_SHIFT = 15,
    parameter int DRIVE_SUM_BITS = 40,
    parameter int DRIVE_DROP = 6,
    parameter int DRIVE_BITS = 18,
    parameter int DECAYED_ALIGN = 0,
    parameter int INFLOW_ALIGN = 9,
    parameter int STATE_SUM_BITS = 36,
    parameter int STATE_DROP = 15,
    parameter int STATE_BITS = 18,
    parameter int LOWER_BITS = 4,
    parameter int READ_ALIGN = 0,
    parameter int SKIP_BITS = 16,
    parameter int SKIP_ALIGN = 0,
    parameter int ACCUMULATOR_IN_BITS = 45,
    parameter int ACCUMULATOR_DROP = 12,
    parameter int ACCUMULATOR_BITS = 18,
    parameter logic [61:0] GAIN = 1,
    parameter int GAIN_BITS = 16,
    parameter int OUTPUT_SUM_BITS = 35,
    parameter int OUTPUT_DROP = 25,
    parameter int OUTPUT_BITS = 8,

    parameter string SOFTPLUS_FILE = "",  // delta for each code of dt, the code read as unsigned
    parameter string RATE_FILE = "",      // PD * PN rates for each beat of updates
    parameter string SHIFT_FILE = "",     // PD shifts for each fold of the channels
    parameter string READ_FILE = "",      // PD times {lower, skip} for each fold of the channels
    parameter EXP2_FILE = "",
    parameter string STATE_STYLE = "auto",
    parameter string RATE_STYLE = "auto"
) (
    input  wire                                ap_clk,
    input  wire                                ap_rst_n,

    input  wire  [PD*INPUT_BITS-1:0]           in0_V_tdata,
    input  wire                                in0_V_tvalid,
    output logic                               in0_V_tready,
    input  wire  [PD*INPUT_BITS-1:0]           in1_V_tdata,
    input  wire                                in1_V_tvalid,
    output logic                               in1_V_tready,
    input  wire  [PN*INPUT_BITS-1:0]           in2_V_tdata,
    input  wire                                in2_V_tvalid,
    output logic                               in2_V_tready,
    input  wire  [PN*INPUT_BITS-1:0]           in3_V_tdata,
    input  wire                                in3_V_tvalid,
    output logic                               in3_V_tready,

    output logic [((PD*(OUTPUT_BITS+(WIDE_OUTPUT ? ACCUMULATOR_IN_BITS : 0))+7)/8)*8-1:0] out0_V_tdata,
    output logic                               out0_V_tvalid,
    input  wire                                out0_V_tready
);
    localparam int STATE_LOOP = 6;
    localparam int CHANNEL_FOLDS = CHANNELS / PD;
    localparam int STATE_FOLDS = STATES / PN;
    localparam int BEATS = CHANNEL_FOLDS * STATE_FOLDS;
    if (CHANNELS % PD != 0) $error("selective_scan: PD=%0d of CHANNELS=%0d", PD, CHANNELS);
    if (STATES % PN != 0) $error("selective_scan: PN=%0d of STATES=%0d", PN, STATES);
    if (BEATS < STATE_LOOP)
        $error("selective_scan: %0d states a lane, expected %0d or more", BEATS, STATE_LOOP);
    if (LENGTH < 1) $error("selective_scan: LENGTH=%0d, expected 1 or more", LENGTH);

    localparam int STATE_FOLD_BITS = STATE_FOLDS > 1 ? $clog2(STATE_FOLDS) : 1;
    localparam int CHANNEL_FOLD_BITS = CHANNEL_FOLDS > 1 ? $clog2(CHANNEL_FOLDS) : 1;
    localparam int ADDRESS_BITS = $clog2(BEATS);
    localparam int RESULT_BITS = OUTPUT_BITS + (WIDE_OUTPUT ? ACCUMULATOR_IN_BITS : 0);
    // cycles of an update in the pipeline: when the states are summed, and when the result is there
    localparam int SUMMED = 19 + $clog2(PN);
    localparam int DONE = SUMMED + 10;
    // A credit is away for the updates of a channel, the pipeline and 4 cycles of the queue.
    localparam int PLACES = 1 << $clog2((DONE + 3) / STATE_FOLDS + 2);

    // cycle 0: issue
    logic [PD*INPUT_BITS-1:0] x_0, dt_0;
    logic x_valid, dt_valid, channels_taken;
    stream_register #(
        .BITS(PD * INPUT_BITS)
    ) x_register (
        .ap_clk(ap_clk), .ap_rst_n(ap_rst_n),
        .in0_V_tdata(in0_V_tdata), .in0_V_tvalid(in0_V_tvalid), .in0_V_tready(in0_V_tready),
        .out0_V_tdata(x_0), .out0_V_tvalid(x_valid), .out0_V_tready(channels_taken)
    );
    stream_register #(
        .BITS(PD * INPUT_BITS)
    ) dt_register (
        .ap_clk(ap_clk), .ap_rst_n(ap_rst_n),
        .in0_V_tdata(in1_V_tdata), .in0_V_tvalid(in1_V_tvalid), .in0_V_tready(in1_V_tready),
        .out0_V_tdata(dt_0), .out0_V_tvalid(dt_valid), .out0_V_tready(channels_taken)
    );

    logic [PN*INPUT_BITS-1:0] b_1, c_1;
    logic b_complete, c_complete, states_taken;
    logic [STATE_FOLD_BITS-1:0] state_fold_0;
    selective_scan_token #(
        .WORDS(STATE_FOLDS),
        .BITS(PN * INPUT_BITS)
    ) b_token (
        .ap_clk(ap_clk), .ap_rst_n(ap_rst_n),
        .in0_V_tdata(in2_V_tdata), .in0_V_tvalid(in2_V_tvalid), .in0_V_tready(in2_V_tready),
        .complete(b_complete),
        .release_token(states_taken),
        .address(state_fold_0),
        .word(b_1)
    );
    selective_scan_token #(
        .WORDS(STATE_FOLDS),
        .BITS(PN * INPUT_BITS)
    ) c_token (
        .ap_clk(ap_clk), .ap_rst_n(ap_rst_n),
        .in0_V_tdata(in3_V_tdata), .in0_V_tvalid(in3_V_tvalid), .in0_V_tready(in3_V_tready),
        .complete(c_complete),
        .release_token(states_taken),
        .address(state_fold_0),
        .word(c_1)
    );

    logic issued_0, first_token_0, first_states_0, last_states_0, credit, begins_0;
    logic [CHANNEL_FOLD_BITS-1:0] channel_fold_0;
    logic [ADDRESS_BITS-1:0] address_0;
    selective_scan_issue #(
        .LENGTH(LENGTH),
        .CHANNEL_FOLDS(CHANNEL_FOLDS),
        .STATE_FOLDS(STATE_FOLDS)
    ) issue (
        .ap_clk(ap_clk), .ap_rst_n(ap_rst_n),
        .channels_valid(x_valid && dt_valid),
        .channels_taken(channels_taken),
        .states_valid(b_complete && c_complete),
        .states_taken(states_taken),
        .credit(credit),
        .begins(begins_0),
        .issued(issued_0),
        .first_token(first_token_0),
        .first_states(first_states_0),
        .last_states(last_states_0),
        .state_fold(state_fold_0),
        .channel_fold(channel_fold_0),
        .address(address_0)
    );

    // What is issued; only what writes needs a reset.
    logic [DONE-1:0] issued;  // bit i in cycle i + 1
    always_ff @(posedge ap_clk) issued <= ap_rst_n ? {issued[DONE-2:0], issued_0} : '0;

    logic [ADDRESS_BITS-1:0] address_11, address_16;
    logic [CHANNEL_FOLD_BITS-1:0] channel_fold_4, channel_fold_read;
    logic first_token_12, restart, last_done;
    selective_scan_delay #(.BITS(ADDRESS_BITS), .CYCLES(11)) address_to_11 (
        .ap_clk(ap_clk), .word(address_0), .later(address_11)
    );
    selective_scan_delay #(.BITS(ADDRESS_BITS), .CYCLES(5)) address_to_16 (
        .ap_clk(ap_clk), .word(address_11), .later(address_16)
    );
    selective_scan_delay #(.BITS(1), .CYCLES(12)) first_token_to_12 (
        .ap_clk(ap_clk), .word(first_token_0), .later(first_token_12)
    );
    selective_scan_delay #(.BITS(CHANNEL_FOLD_BITS), .CYCLES(4)) channel_fold_to_4 (
        .ap_clk(ap_clk), .word(channel_fold_0), .later(channel_fold_4)
    );
    selective_scan_delay #(.BITS(CHANNEL_FOLD_BITS), .CYCLES(SUMMED - 5)) channel_fold_to_read (
        .ap_clk(ap_clk), .word(channel_fold_4), .later(channel_fold_read)
    );
    selective_scan_delay #(.BITS(1), .CYCLES(SUMMED)) restart_to_sum (
        .ap_clk(ap_clk), .word(first_states_0), .later(restart)
    );
    selective_scan_delay #(.BITS(1), .CYCLES(DONE)) last_to_done (
        .ap_clk(ap_clk), .word(last_states_0), .later(last_done)
    );

    // The streams at the places where they are used.
    logic [PD*INPUT_BITS-1:0] x_1, x_5, x_summed, dt_1;
    logic [PN*INPUT_BITS-1:0] b_11, c_16;
    always_ff @(posedge ap_clk) begin
        x_1 <= x_0;
        dt_1 <= dt_0;
    end
    selective_scan_delay #(.BITS(PD * INPUT_BITS), .CYCLES(4)) x_to_5 (
        .ap_clk(ap_clk), .word(x_1), .later(x_5)
    );
    selective_scan_delay #(.BITS(PD * INPUT_BITS), .CYCLES(SUMMED - 5)) x_to_sum (
        .ap_clk(ap_clk), .word(x_5), .later(x_summed)
    );
    selective_scan_delay #(.BITS(PN * INPUT_BITS), .CYCLES(10)) b_to_11 (
        .ap_clk(ap_clk), .word(b_1), .later(b_11)
    );
    selective_scan_delay #(.BITS(PN * INPUT_BITS), .CYCLES(15)) c_to_16 (
        .ap_clk(ap_clk), .word(c_1), .later(c_16)
    );

    // The constants.
    localparam int READ_BITS = LOWER_BITS + SKIP_BITS;
    logic [PD*PN*RATE_BITS-1:0] rate_1, rate_2;
    logic [PD*SHIFT_BITS-1:0] shift_5;
    logic [PD*READ_BITS-1:0] read_summed;
    selective_scan_rom #(
        .WORDS(BEATS),
        .BITS(PD * PN * RATE_BITS),
        .FILE(RATE_FILE),
        .STYLE(RATE_STYLE)
    ) rate_rom (
        .ap_clk(ap_clk),
        .address(address_0),
        .word(rate_1)
    );
    always_ff @(posedge ap_clk) rate_2 <= rate_1;
    selective_scan_rom #(
        .WORDS(CHANNEL_FOLDS),
        .BITS(PD * SHIFT_BITS),
        .FILE(SHIFT_FILE)
    ) shift_rom (
        .ap_clk(ap_clk),
        .address(channel_fold_4),
        .word(shift_5)
    );
    selective_scan_rom #(
        .WORDS(CHANNEL_FOLDS),
        .BITS(PD * READ_BITS),
        .FILE(READ_FILE)
    ) read_rom (
        .ap_clk(ap_clk),
        .address(channel_fold_read),
        .word(read_summed)
    );

    // The states: no reset and no clearing; in a frame's first token nothing is read.
    logic [PD*PN*STATE_BITS-1:0] old_12, new_16;
    (* ram_style = STATE_STYLE *) logic [PD*PN*STATE_BITS-1:0] states[BEATS];
    always_ff @(posedge ap_clk) begin
        if (issued[15]) states[address_16] <= new_16;
        old_12 <= states[address_11];
    end

    logic [PD*RESULT_BITS-1:0] results;
`ifdef VERILATOR
    // The harness is told the accumulators of every y, before any rounding (simulation/streams.cpp).
    import "DPI-C" function int stream_open(input string path);
    import "DPI-C" function void stream_word(input int stream, input longint unsigned part);
    wire [PD*ACCUMULATOR_IN_BITS-1:0] accumulators;
    localparam int PARTS = (PD * ACCUMULATOR_IN_BITS + 63) / 64;
    int stream;
    initial stream = stream_open($sformatf("%m"));
    wire [PARTS*64-1:0] padded = (PARTS * 64)'(accumulators);
    always @(posedge ap_clk)
        if (ap_rst_n && stream >= 0 && issued[DONE-1] && last_done)
            for (int i = 0; i < PARTS; i++) stream_word(stream, padded[i*64+:64]);
`endif
    for (genvar d = 0; d < PD; d++) begin : channel
        logic [DELTA_BITS-1:0] delta_2, delta_7;
        selective_scan_rom #(
            .WORDS(1 << INPUT_BITS),
            .BITS(DELTA_BITS),
            .FILE(SOFTPLUS_FILE)
        ) softplus_rom (
            .ap_clk(ap_clk),
            .address(dt_1[d*INPUT_BITS+:INPUT_BITS]),
            .word(delta_2)
        );
        selective_scan_delay #(.BITS(DELTA_BITS), .CYCLES(5)) delta_to_7 (
            .ap_clk(ap_clk), .word(delta_2), .later(delta_7)
        );

        logic signed [DRIVE_BITS-1:0] drive_11;
        selective_scan_drive #(
            .INPUT_BITS(INPUT_BITS),
            .DELTA_BITS(DELTA_BITS),
            .SHIFT_BITS(SHIFT_BITS),
            .LARGEST_SHIFT(LARGEST_SHIFT),
            .DRIVE_SUM_BITS(DRIVE_SUM_BITS),
            .DRIVE_DROP(DRIVE_DROP),
            .DRIVE_BITS(DRIVE_BITS)
        ) drive (
            .ap_clk(ap_clk),
            .x_0(x_5[d*INPUT_BITS+:INPUT_BITS]),
            .shift_0(shift_5[d*SHIFT_BITS+:SHIFT_BITS]),
            .delta_2(delta_7),
            .drive_6(drive_11)
        );

        logic [PN*(STATE_BITS+INPUT_BITS)-1:0] read_19;
        for (genvar n = 0; n < PN; n++) begin : state
            localparam int LANE = d * PN + n;
            selective_scan_lane #(
                .INPUT_BITS(INPUT_BITS),
                .DELTA_BITS(DELTA_BITS),
                .RATE_BITS(RATE_BITS),
                .EXPONENT_SUM_BITS(EXPONENT_SUM_BITS),
                .EXPONENT_DROP(EXPONENT_DROP),
                .EXPONENT_BITS(EXPONENT_BITS),
                .EXPONENT_FRAC(EXPONENT_FRAC),
                .SEGMENT_BITS(SEGMENT_BITS),
                .VALUE_BITS(VALUE_BITS),
                .FALL_BITS(FALL_BITS),
                .DEEPEST_SHIFT(DEEPEST_SHIFT),
                .DECAY_DROP(DECAY_DROP),
                .DECAY_BITS(DECAY_BITS),
                .DRIVE_BITS(DRIVE_BITS),
                .DECAYED_ALIGN(DECAYED_ALIGN),
                .INFLOW_ALIGN(INFLOW_ALIGN),
                .STATE_SUM_BITS(STATE_SUM_BITS),
                .STATE_DROP(STATE_DROP),
                .STATE_BITS(STATE_BITS),
                .EXP2_FILE(EXP2_FILE)
            ) lane (
                .ap_clk(ap_clk),
                .delta_2(delta_2),
                .rate_2(rate_2[LANE*RATE_BITS+:RATE_BITS]),
                .drive_11(drive_11),
                .b_11(b_11[n*INPUT_BITS+:INPUT_BITS]),
                .first_12(first_token_12),
                .old_12(old_12[LANE*STATE_BITS+:STATE_BITS]),
                .c_16(c_16[n*INPUT_BITS+:INPUT_BITS]),
                .new_16(new_16[LANE*STATE_BITS+:STATE_BITS]),
                .read_19(read_19[n*(STATE_BITS+INPUT_BITS)+:STATE_BITS+INPUT_BITS])
            );
        end

        logic [LOWER_BITS-1:0] lower_1;  // a cycle after the sum
        always_ff @(posedge ap_clk) lower_1 <= read_summed[d*READ_BITS+SKIP_BITS+:LOWER_BITS];
        selective_scan_readout #(
            .PN(PN),
            .STATES(STATES),
            .INPUT_BITS(INPUT_BITS),
            .STATE_BITS(STATE_BITS),
            .LOWER_BITS(LOWER_BITS),
            .READ_ALIGN(READ_ALIGN),
            .SKIP_BITS(SKIP_BITS),
            .SKIP_ALIGN(SKIP_ALIGN),
            .ACCUMULATOR_IN_BITS(ACCUMULATOR_IN_BITS),
            .ACCUMULATOR_DROP(ACCUMULATOR_DROP),
            .ACCUMULATOR_BITS(ACCUMULATOR_BITS),
            .GAIN(GAIN),
            .GAIN_BITS(GAIN_BITS),
            .OUTPUT_SUM_BITS(OUTPUT_SUM_BITS),
            .OUTPUT_DROP(OUTPUT_DROP),
            .OUTPUT_BITS(OUTPUT_BITS),
            .WIDE_OUTPUT(WIDE_OUTPUT),
            .RESULT_BITS(RESULT_BITS)
        ) readout (
            .ap_clk(ap_clk),
            .products(read_19),
            .restart_0(restart),
            .lower_1(lower_1),
            .x_0(x_summed[d*INPUT_BITS+:INPUT_BITS]),
            .skip_0(read_summed[d*READ_BITS+:SKIP_BITS]),
            .result_10(results[d*RESULT_BITS+:RESULT_BITS])
        );
`ifdef VERILATOR
        assign accumulators[d*ACCUMULATOR_IN_BITS+:ACCUMULATOR_IN_BITS] = readout.watched_10;
`endif
    end

    credit_queue #(
        .BITS(PD * RESULT_BITS),
        .DEPTH(PLACES)
    ) output_queue (
        .ap_clk(ap_clk), .ap_rst_n(ap_rst_n),
        .credit(credit), .spend(begins_0),
        .push(issued[DONE-1] && last_done),
        .word(results),
        .out0_V_tdata(out0_V_tdata), .out0_V_tvalid(out0_V_tvalid), .out0_V_tready(out0_V_tready)
    );
endmodule

`default_nettype wire
