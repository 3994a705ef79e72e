// A queue of at least DEPTH words: exactly 2 for DEPTH = 2, else the larger of 5 and DEPTH.
//
// DEPTH = 2 is a stream_register. Else a memory of DEPTH - 3 words, the register behind its read
// port and a stream_register; a word takes 3 cycles through it. Throughput one word a cycle.
// A simulation prints at its end the smallest DEPTH that would have refused none of the words that
// this one took, in how many cycles this one refused a word, and in which cycles it took its first
// and its last. The harness is told every word that is taken (simulation/streams.cpp), and may ask for
// a smaller depth, so that a design is compiled once for all depths.
`default_nettype none

`ifdef VERILATOR
`define ROOM room
`else
`define ROOM WORDS
`endif

module fifo #(
    parameter int BITS = 8,
    parameter int DEPTH = 2,
    parameter     RAM_STYLE = "auto"  // auto, distributed, block or ultra
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
    if (BITS < 1 || DEPTH < 2)
        $error("fifo: BITS=%0d, DEPTH=%0d, expected at least 1 and 2", BITS, DEPTH);

    localparam int PORT_BITS = ((BITS + 7) / 8) * 8;

`ifdef VERILATOR
    import "DPI-C" function int stream_open(input string path);
    import "DPI-C" function int stream_depth(input int stream, input int compiled);
    import "DPI-C" function void stream_word(input int stream, input longint unsigned part);
    localparam int PARTS = (BITS + 63) / 64;
    int stream, depth;
    initial begin
        stream = stream_open($sformatf("%m"));
        depth = stream_depth(stream, DEPTH);
    end
    wire [PARTS*64-1:0] padded = (PARTS * 64)'(in0_V_tdata[BITS-1:0]);
    always @(posedge ap_clk)
        if (ap_rst_n && stream >= 0 && in0_V_tvalid && in0_V_tready)
            for (int i = 0; i < PARTS; i++) stream_word(stream, padded[i*64+:64]);
`endif

    logic [PORT_BITS-1:0] word;
    logic word_valid, step;

    if (DEPTH == 2) begin : g_register
        assign word = in0_V_tdata;
        assign word_valid = in0_V_tvalid;
        assign in0_V_tready = step;
    end else begin : g_memory
        localparam int WORDS = DEPTH > 5 ? DEPTH - 3 : 2;
        localparam int ADDRESS_BITS = $clog2(WORDS);
        typedef logic [ADDRESS_BITS-1:0] address_t;
`ifdef VERILATOR
        wire [31:0] room = depth > 5 ? depth - 3 : 2;
`endif

        (* ram_style = RAM_STYLE *) logic [BITS-1:0] memory [WORDS];
        logic [BITS-1:0] read_word;
        address_t write, read;
        logic [$clog2(WORDS+1)-1:0] count;

        wire take = in0_V_tvalid && in0_V_tready;
        wire put = step && count != '0;

        assign in0_V_tready = count != $bits(count)'(`ROOM);
        assign word = PORT_BITS'(read_word);

        always_ff @(posedge ap_clk) begin
            if (take) memory[write] <= in0_V_tdata[BITS-1:0];
            if (step) read_word <= memory[read];
        end

        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) begin
                write <= '0;
                read <= '0;
                count <= '0;
                word_valid <= 1'b0;
            end else begin
                if (take) write <= write == address_t'(`ROOM - 1) ? '0 : write + 1'b1;
                if (put) read <= read == address_t'(`ROOM - 1) ? '0 : read + 1'b1;
                if (take != put) count <= take ? count + 1'b1 : count - 1'b1;
                if (step) word_valid <= put;
            end
        end

`ifdef VERILATOR
        int needed;
        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) needed <= 5;
            else if (take && int'(count) + 4 > needed) needed <= int'(count) + 4;
        end
        final $display("counter %m.needed %0d", needed);
`endif
    end

    stream_register #(.BITS(BITS)) register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata(word), .in0_V_tvalid(word_valid), .in0_V_tready(step),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );

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

`undef ROOM
`default_nettype wire
