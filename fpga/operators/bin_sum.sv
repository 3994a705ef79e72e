// The sums of the codes of each bin of BIN_H x BIN_W pixels of a stream of maps.
//
// BEATS beats a pixel, BINS bins in a row of them. A memory holds a word of sums for each beat of
// each bin of the row. The pipeline behind the input never waits: reading, adding and writing back
// take a cycle each, and of a word that is not written back yet the sum is taken from where it is.
// A beat is taken with a credit for a place in the queue that the sums of a complete bin go to.
// Throughput one input beat a cycle; a sum is offered 5 cycles after its last code was taken.
`default_nettype none

module bin_sum #(
    parameter int PE = 1,
    parameter int BITS = 8,
    parameter bit SIGNED = 1,
    parameter int SUM_BITS = 10,   // enough for every sum
    parameter int BEATS = 1,
    parameter int BIN_H = 2,
    parameter int BIN_W = 2,
    parameter int BINS = 1,
    parameter string RAM_STYLE = "auto"
) (
    input  wire                                ap_clk,
    input  wire                                ap_rst_n,

    input  wire  [((PE*BITS+7)/8)*8-1:0]       in0_V_tdata,
    input  wire                                in0_V_tvalid,
    output logic                               in0_V_tready,

    output logic [((PE*SUM_BITS+7)/8)*8-1:0]   out0_V_tdata,
    output logic                               out0_V_tvalid,
    input  wire                                out0_V_tready
);
    if (PE < 1 || BEATS < 1 || BIN_H < 1 || BIN_W < 1 || BINS < 1)
        $error("bin_sum: PE=%0d, BEATS=%0d, BIN_H=%0d, BIN_W=%0d, BINS=%0d, expected 1 or more",
               PE, BEATS, BIN_H, BIN_W, BINS);
    if (SUM_BITS < BITS) $error("bin_sum: SUM_BITS=%0d, expected %0d or more", SUM_BITS, BITS);

    localparam int WORDS = BINS * BEATS;
    localparam int ADDRESS_BITS = WORDS > 1 ? $clog2(WORDS) : 1;
    localparam int SUMS = PE * SUM_BITS;
    // lanes whose sums are chosen, written and put out together: nothing reaches more bits than 200
    localparam int GROUP = SUM_BITS < 200 ? 200 / SUM_BITS : 1;
    localparam int GROUPS = (PE + GROUP - 1) / GROUP;
    typedef logic [ADDRESS_BITS-1:0] address_t;
    typedef enum logic [1:0] {STORED, NEWEST, NEWER, NOTHING} from_t;

    // where the beat at hand is
    logic credit, last_beat, last_x, last_bin, last_y;
    logic first_x, first_y;  // the bin begins with it
    wire take = in0_V_tvalid && in0_V_tready;
    wire next_pixel = take && last_beat;
    wire next_bin = next_pixel && last_x;
    wire next_row = next_bin && last_bin;
    assign in0_V_tready = credit;

    logic [$clog2(BEATS+1)-1:0] beat;
    logic [$clog2(BIN_W+1)-1:0] x;
    logic [$clog2(BINS+1)-1:0] bin;
    logic [$clog2(BIN_H+1)-1:0] y;
    wrap_counter #(.COUNT(BEATS), .BITS($bits(beat))) beats (
        .ap_clk, .ap_rst_n, .step(take), .value(beat), .last(last_beat)
    );
    wrap_counter #(.COUNT(BIN_W), .BITS($bits(x))) columns (
        .ap_clk, .ap_rst_n, .step(next_pixel), .value(x), .last(last_x)
    );
    wrap_counter #(.COUNT(BINS), .BITS($bits(bin))) bin_places (
        .ap_clk, .ap_rst_n, .step(next_bin), .value(bin), .last(last_bin)
    );
    wrap_counter #(.COUNT(BIN_H), .BITS($bits(y))) lines (
        .ap_clk, .ap_rst_n, .step(next_row), .value(y), .last(last_y)
    );

    address_t here, start;  // its word, and the first of its bin
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            here <= '0;
            start <= '0;
            first_x <= 1'b1;
            first_y <= 1'b1;
        end else if (take) begin
            if (!last_beat) begin
                here <= here + 1'b1;
            end else if (!last_x) begin
                here <= start;
            end else begin
                here <= last_bin ? '0 : here + 1'b1;
                start <= last_bin ? '0 : here + 1'b1;
            end
            if (last_beat) first_x <= last_x;
            if (next_row) first_y <= last_y;
        end
    end

    // what was taken, and then what is added, written, and was just written
    logic read_valid, add_valid, write_valid;
    logic read_first, read_done, add_done, push;
    address_t read_address, add_address, write_address;
    logic [PE*BITS-1:0] read_codes, add_codes;
    wire done = last_x && last_y;

    always_ff @(posedge ap_clk) begin
        read_address <= here;
        read_first <= first_x && first_y;
        read_done <= done;
        read_codes <= in0_V_tdata[PE*BITS-1:0];
        add_address <= read_address;
        add_done <= read_done;
        add_codes <= read_codes;
        write_address <= add_address;
    end
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) {read_valid, add_valid, write_valid, push} <= '0;
        else {read_valid, add_valid, write_valid, push} <=
            {take, read_valid, add_valid, add_valid && add_done};
    end

    // the sum before this code: of the beat one or two cycles ahead, where it is the same word's
    from_t from_next;
    always_comb begin
        from_next = STORED;
        if (write_valid && write_address == read_address) from_next = NEWER;
        if (add_valid && add_address == read_address) from_next = NEWEST;
        if (read_first) from_next = NOTHING;
    end

    logic [SUMS-1:0] sums, head;
    logic offered;
    wire [GROUPS-1:0] valid, step;
    window_queue #(.BITS(SUMS)) queue (
        .ap_clk, .ap_rst_n, .credit, .spend(take && done), .push, .word(sums), .offered, .head,
        .take(step[0])
    );
    assign out0_V_tvalid = valid[0];

    for (genvar group = 0; group < GROUPS; group++) begin : g_group
        localparam int START = group * GROUP;
        localparam int LANES = START + GROUP > PE ? PE - START : GROUP;
        localparam int WIDE = LANES * SUM_BITS;
        // each group has its own, so that no net has to reach all lanes
        (* keep *) from_t from;
        (* keep *) logic write;
        (* keep *) address_t look, place;
        (* ram_style = RAM_STYLE *) logic [WIDE-1:0] memory [WORDS];
        logic [WIDE-1:0] stored, newest, newer;

        always_ff @(posedge ap_clk) begin
            look <= here;
            from <= from_next;
            place <= add_address;
            stored <= memory[look];
            newer <= newest;
            if (write) memory[place] <= newest;
        end
        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) write <= 1'b0;
            else write <= add_valid;
        end

        for (genvar lane = 0; lane < LANES; lane++) begin : g_lane
            wire [BITS-1:0] code = add_codes[(START+lane)*BITS +: BITS];
            logic [SUM_BITS-1:0] held;
            always_comb begin
                case (from)
                    STORED: held = stored[lane*SUM_BITS +: SUM_BITS];
                    NEWEST: held = newest[lane*SUM_BITS +: SUM_BITS];
                    NEWER: held = newer[lane*SUM_BITS +: SUM_BITS];
                    default: held = '0;
                endcase
            end
            wire [SUM_BITS-1:0] wide = SIGNED ? SUM_BITS'(signed'(code)) : SUM_BITS'(code);
            always_ff @(posedge ap_clk) newest[lane*SUM_BITS +: SUM_BITS] <= held + wide;
        end
        assign sums[START*SUM_BITS +: WIDE] = newest;

        window_taps #(.BITS(WIDE), .TAPS(1)) register (
            .ap_clk, .ap_rst_n, .offered, .complete(1'b1), .column(head[START*SUM_BITS +: WIDE]),
            .taps(out0_V_tdata[START*SUM_BITS +: WIDE]), .valid(valid[group]),
            .ready(out0_V_tready), .step(step[group])
        );
    end

    // bits of the port above the word
    if (SUMS % 8 != 0) begin : g_above
        assign out0_V_tdata[((SUMS+7)/8)*8-1:SUMS] = '0;
    end
    wire unused = &{1'b0, in0_V_tdata};
endmodule

`default_nettype wire
