// Repeats every pixel of a stream of maps FACTOR_W times along a row and every row FACTOR_H times.
//
// BEATS beats a pixel, WIDTH pixels a row of the input. A ring of DEPTH words, a row or more, holds
// what is still to be repeated; a word is free again once it was put out for the last time, and the
// input is taken whenever a word is free. Throughput one output beat a cycle.
`default_nettype none

module upsample_nearest #(
    parameter int BITS = 8,
    parameter int BEATS = 1,
    parameter int WIDTH = 1,
    parameter int FACTOR_H = 2,
    parameter int FACTOR_W = 2,
    parameter int DEPTH = WIDTH * BEATS + 4,
    parameter string RAM_STYLE = "auto"
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
    if (BEATS < 1 || WIDTH < 1 || FACTOR_H < 1 || FACTOR_W < 1)
        $error("upsample_nearest: BEATS=%0d, WIDTH=%0d, FACTOR_H=%0d, FACTOR_W=%0d, expected 1 up",
               BEATS, WIDTH, FACTOR_H, FACTOR_W);
    if (DEPTH < WIDTH * BEATS + 4)
        $error("upsample_nearest: DEPTH=%0d, expected %0d or more", DEPTH, WIDTH * BEATS + 4);

    localparam int PORT_BITS = ((BITS + 7) / 8) * 8;
    localparam int ADDRESS_BITS = $clog2(DEPTH);
    localparam int COUNT_BITS = $clog2(DEPTH + 1);
    typedef logic [ADDRESS_BITS-1:0] address_t;
    typedef logic [COUNT_BITS-1:0] count_t;

    function automatic address_t after(address_t address);
        return address == address_t'(DEPTH - 1) ? '0 : address + 1'b1;
    endfunction

    (* ram_style = RAM_STYLE *) logic [BITS-1:0] ring [DEPTH];
    logic [BITS-1:0] word;
    logic step, word_valid;

    // what is put out: beat of a pixel, its copy, pixel of the row, copy of the row
    logic [$clog2(BEATS+1)-1:0] beat;
    logic [$clog2(FACTOR_W+1)-1:0] copy_x;
    logic [$clog2(WIDTH+1)-1:0] x;
    logic [$clog2(FACTOR_H+1)-1:0] copy_y;
    address_t write, read, pixel_start, row_start;
    count_t unread;    // words that were not yet put out
    count_t occupied;  // words that are still needed

    wire last_beat = beat == $bits(beat)'(BEATS - 1);
    wire last_copy_x = copy_x == $bits(copy_x)'(FACTOR_W - 1);
    wire last_x = x == $bits(x)'(WIDTH - 1);
    wire last_copy_y = copy_y == $bits(copy_y)'(FACTOR_H - 1);

    wire first_time = copy_x == '0 && copy_y == '0;
    wire last_time = last_copy_x && last_copy_y;
    wire put = step && (!first_time || unread != '0);
    wire take = in0_V_tvalid && in0_V_tready;

    assign in0_V_tready = occupied != count_t'(DEPTH);

    always_ff @(posedge ap_clk) begin
        if (take) ring[write] <= in0_V_tdata[BITS-1:0];
        if (step) word <= ring[read];
    end

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            word_valid <= 1'b0;
            write <= '0;
            unread <= '0;
            occupied <= '0;
        end else begin
            if (step) word_valid <= put;
            if (take) write <= after(write);
            unread <= unread + count_t'(take) - count_t'(put && first_time);
            occupied <= occupied + count_t'(take) - count_t'(put && last_time);
        end
    end

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            beat <= '0;
            copy_x <= '0;
            x <= '0;
            copy_y <= '0;
            read <= '0;
            pixel_start <= '0;
            row_start <= '0;
        end else if (put) begin
            beat <= last_beat ? '0 : beat + 1'b1;
            if (last_beat) copy_x <= last_copy_x ? '0 : copy_x + 1'b1;
            if (last_beat && last_copy_x) x <= last_x ? '0 : x + 1'b1;
            if (last_beat && last_copy_x && last_x) copy_y <= last_copy_y ? '0 : copy_y + 1'b1;

            read <= after(read);
            if (last_beat && !last_copy_x) begin
                read <= pixel_start;
            end else if (last_beat && last_x && !last_copy_y) begin
                read <= row_start;
                pixel_start <= row_start;
            end else if (last_beat) begin
                pixel_start <= after(read);
                if (last_x) row_start <= after(read);
            end
        end
    end

    stream_register #(.BITS(BITS)) register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata(PORT_BITS'(word)), .in0_V_tvalid(word_valid), .in0_V_tready(step),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
