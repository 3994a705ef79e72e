// A queue of words: a register of two, or SEGMENTS memories of ROWS rows, one behind the other.
//
// A row holds PACK words, because a memory has rows of one width: words are joined before the first
// segment and parted behind the last. What does not fill a row stays before the memories, so that a
// stream whose frames are no multiple of PACK words would hold back the end of one.
// Throughput one word a cycle; through one segment of single words in 4 cycles.
// A simulation prints at its end the smallest depth that would have refused none of the words that
// this one took, in how many cycles this one refused a word, and in which cycles it took its first
// and its last; a depth is the words of the memories and 3. The harness is told every word that is
// taken (simulation/streams.cpp), and may ask for fewer rows and segments, so that a design is
// compiled once for all depths: then the first segment has all rows, and the last ones are passed by.
`default_nettype none

`ifdef VERILATOR
`define USED_ROWS rows
`define IS_USED(i) (i < segments)
`define MEMORY_ROWS(i) (i == 0 ? SEGMENTS * ROWS : ROWS)
`else
`define USED_ROWS 32'(ROWS)
`define IS_USED(i) 1'b1
`define MEMORY_ROWS(i) ROWS
`endif

module fifo #(
    parameter int    BITS      = 8,
    parameter int    PACK      = 1,
    parameter int    ROWS      = 0,  // 0: no memory
    parameter int    SEGMENTS  = 1,
    parameter string RAM_STYLE = "auto"  // auto, distributed, block or ultra
) (
    input  wire                        ap_clk,
    input  wire                        ap_rst_n,

    input  wire  [((BITS+7)/8)*8-1:0]  in0_V_tdata,
    input  wire                        in0_V_tvalid,
    output logic                       in0_V_tready,

    output logic [((BITS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                       out0_V_tvalid,
    input  wire                        out0_V_tready
);
    if (BITS < 1 || PACK < 1 || SEGMENTS < 1)
        $error("fifo: BITS=%0d, PACK=%0d, SEGMENTS=%0d, expected 1 or more", BITS, PACK, SEGMENTS);
    if (ROWS < 0 || ROWS == 1) $error("fifo: ROWS=%0d, expected 0, or 2 or more", ROWS);

`ifdef VERILATOR
    import "DPI-C" function int stream_open(input string path);
    import "DPI-C" function int stream_rows(input int stream, input int compiled, input int whole);
    import "DPI-C" function int stream_segments(input int stream, input int compiled);
    import "DPI-C" function void stream_word(input int stream, input longint unsigned part);
    localparam int PARTS = (BITS + 63) / 64;
    int stream, segments, rows;
    initial begin
        stream = stream_open($sformatf("%m"));
        segments = stream_segments(stream, SEGMENTS);
        rows = stream_rows(stream, ROWS, SEGMENTS);
    end
    wire [PARTS*64-1:0] padded = (PARTS * 64)'(in0_V_tdata[BITS-1:0]);
    always @(posedge ap_clk)
        if (ap_rst_n && stream >= 0 && in0_V_tvalid && in0_V_tready)
            for (int i = 0; i < PARTS; i++) stream_word(stream, padded[i*64+:64]);
`endif

    if (ROWS == 0) begin : g_register
        stream_register #(.BITS(BITS)) register (
            .ap_clk, .ap_rst_n, .in0_V_tdata, .in0_V_tvalid, .in0_V_tready,
            .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
        );
    end else begin : g_memory
        localparam int ROW_BITS = BITS * PACK;
        localparam int PORT_BITS = ((ROW_BITS + 7) / 8) * 8;

        logic [PORT_BITS-1:0] joined;
        logic joined_valid, joined_ready;
        if (PACK > 1) begin : g_join
            width_up #(.BITS(BITS), .PARTS(PACK)) join_words (
                .ap_clk, .ap_rst_n, .in0_V_tdata, .in0_V_tvalid, .in0_V_tready,
                .out0_V_tdata(joined), .out0_V_tvalid(joined_valid), .out0_V_tready(joined_ready)
            );
        end else begin : g_single
            assign joined = in0_V_tdata;
            assign joined_valid = in0_V_tvalid;
            assign in0_V_tready = joined_ready;
        end

        // a segment's data comes from the one before it, its ready from the one behind it
        for (genvar i = 0; i < SEGMENTS; i++) begin : g_segment
            logic [ROW_BITS-1:0] data, into;
            logic valid, ready, into_valid, segment_ready, segment_valid;
            logic [ROW_BITS-1:0] segment_data;
            wire used = `IS_USED(i);
            if (i == 0) begin : g_first
                assign {into, into_valid} = {joined[ROW_BITS-1:0], joined_valid};
                assign joined_ready = used ? segment_ready : ready;
            end else begin : g_next
                assign {into, into_valid} = {g_segment[i-1].data, g_segment[i-1].valid};
                assign g_segment[i-1].ready = used ? segment_ready : ready;
            end
            fifo_segment #(.BITS(ROW_BITS), .ROWS(`MEMORY_ROWS(i)), .RAM_STYLE(RAM_STYLE)) segment (
                .ap_clk, .ap_rst_n, .rows(`USED_ROWS),
                .in_data(into), .in_valid(into_valid && used), .in_ready(segment_ready),
                .out_data(segment_data), .out_valid(segment_valid), .out_ready(ready)
            );
            assign {data, valid} = used ? {segment_data, segment_valid} : {into, into_valid};
        end

        // with one word a row a register of two words
        width_converter #(
            .INPUT_BITS(ROW_BITS), .OUTPUT_BITS(BITS), .COMMON_BITS(ROW_BITS)
        ) part_words (
            .ap_clk, .ap_rst_n, .in0_V_tdata(PORT_BITS'(g_segment[SEGMENTS-1].data)),
            .in0_V_tvalid(g_segment[SEGMENTS-1].valid),
            .in0_V_tready(g_segment[SEGMENTS-1].ready),
            .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
        );
`ifdef VERILATOR
        // of one segment the same as when only the register of two stood there
        wire [31:0] rows_needed = g_segment[0].segment.needed;
        final
            $display("counter %m.needed %0d", rows_needed < 2 ? 5 : int'(rows_needed) * PACK + 3);
`endif
    end

`ifdef VERILATOR
    // the time is the number of the cycle since the reset
    int blocked, first, last;
    bit taken;
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            blocked <= 0;
            taken <= 1'b0;
        end else if (in0_V_tvalid) begin
            if (!in0_V_tready) begin
                blocked <= blocked + 1;
            end else begin
                if (!taken) first <= int'($time);
                last <= int'($time);
                taken <= 1'b1;
            end
        end
    end
    final begin
        $display("counter %m.blocked %0d", blocked);
        if (taken) $display("counter %m.first %0d", first);
        if (taken) $display("counter %m.last %0d", last);
    end
`endif
endmodule

`undef USED_ROWS
`undef IS_USED
`undef MEMORY_ROWS
`default_nettype wire
