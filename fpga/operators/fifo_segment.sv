// A queue in one memory: as many words as the memory has rows, and two more behind its read port.
//
// The memory's own two registers stand behind that port, so that a chain of segments goes from memory
// to memory without logic between. in_ready is a flip-flop: no path grows with the chain. A word takes
// 3 cycles through it. Throughput one word a cycle.
`default_nettype none

module fifo_segment #(
    parameter int    BITS      = 8,
    parameter int    ROWS      = 2,  // of the memory
    parameter string RAM_STYLE = "auto"
) (
    input  wire             ap_clk,
    input  wire             ap_rst_n,

    input  wire  [31:0]     rows,  // that are used, constant: ROWS, but for a simulation

    input  wire  [BITS-1:0] in_data,
    input  wire             in_valid,
    output logic            in_ready,

    output logic [BITS-1:0] out_data,
    output logic            out_valid,
    input  wire             out_ready
);
    if (BITS < 1 || ROWS < 2)
        $error("fifo_segment: BITS=%0d, ROWS=%0d, expected at least 1 and 2", BITS, ROWS);

    localparam int ADDRESS_BITS = $clog2(ROWS);
    localparam int COUNT_BITS = $clog2(ROWS + 1);
    typedef logic [ADDRESS_BITS-1:0] address_t;

    (* ram_style = RAM_STYLE *) logic [BITS-1:0] memory[ROWS];
    logic [BITS-1:0] read_word;
    address_t write, read;
    logic [COUNT_BITS-1:0] count;
    logic some;       // count is not 0
    logic read_valid;

    wire whole = rows == 32'(1 << ADDRESS_BITS);  // an address wraps by itself
    wire step_out = !out_valid || out_ready;
    wire step = !read_valid || step_out;
    wire take = in_valid && in_ready;
    wire put = step && some;

    always_ff @(posedge ap_clk) begin
        if (take) memory[write] <= in_data;
        if (step) read_word <= memory[read];
        if (step_out) out_data <= read_word;
    end

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            write <= '0;
            read <= '0;
            count <= '0;
            in_ready <= 1'b1;
            some <= 1'b0;
            read_valid <= 1'b0;
            out_valid <= 1'b0;
        end else begin
            if (take) write <= !whole && write == address_t'(rows - 1) ? '0 : write + 1'b1;
            if (put) read <= !whole && read == address_t'(rows - 1) ? '0 : read + 1'b1;
            if (take && !put) begin
                count <= count + 1'b1;
                in_ready <= count != COUNT_BITS'(rows - 1);
                some <= 1'b1;
            end else if (put && !take) begin
                count <= count - 1'b1;
                in_ready <= 1'b1;
                some <= count != COUNT_BITS'(1);
            end
            if (step) read_valid <= put;
            if (step_out) out_valid <= read_valid;
        end
    end

`ifdef VERILATOR
    int needed;  // rows that would have been enough
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) needed <= 0;
        else if (take && int'(count) >= needed) needed <= int'(count) + 1;
    end
`endif
endmodule

`default_nettype wire
