// Offers each vector of a stream REPEATS times: LENGTH beats, again and again, then the next vector.
//
// While one vector is offered the next one is taken in, so that no cycle is lost between them. The
// beat is registered: it is there in the cycle after `advance` and `offered` were high, and only then.
`default_nettype none

module vector_buffer #(
    parameter int BITS    = 8,
    parameter int LENGTH  = 1,
    parameter int REPEATS = 1
) (
    input  wire              ap_clk,
    input  wire              ap_rst_n,

    input  wire  [BITS-1:0]  in_data,
    input  wire              in_valid,
    output logic             in_ready,

    input  wire              advance,
    output logic             offered,
    output logic             first,  // of what is offered: the first beat of a repetition
    output logic             last,   // ... the last beat of a repetition
    output logic [BITS-1:0]  beat
);
    if (LENGTH < 1) $error("vector_buffer: LENGTH=%0d, expected 1 or more", LENGTH);
    if (REPEATS < 1) $error("vector_buffer: REPEATS=%0d, expected 1 or more", REPEATS);

    localparam int INDEX_BITS = LENGTH > 1 ? $clog2(LENGTH) : 1;
    logic [INDEX_BITS-1:0] index;
    assign first = index == '0;
    assign last = index == INDEX_BITS'(LENGTH - 1);

    wire step = advance && offered;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) index <= '0;
        else if (step) index <= last ? '0 : index + 1'b1;
    end

    if (REPEATS == 1) begin : gen_pass
        assign offered = in_valid;
        assign in_ready = advance;
        always_ff @(posedge ap_clk) beat <= in_data;
    end else begin : gen_repeat
        localparam int WORDS = 2 * LENGTH;
        localparam int ADDRESS_BITS = $clog2(WORDS);
        localparam int COUNT_BITS = $clog2(WORDS + 1);
        localparam int REPEAT_BITS = $clog2(REPEATS);

        logic [BITS-1:0] memory[WORDS];
        logic [ADDRESS_BITS-1:0] writing, reading, base;
        logic [COUNT_BITS-1:0] filled, filled_next;  // words from base on
        logic [REPEAT_BITS-1:0] repetition;

        wire write = in_valid && in_ready;
        wire final_one = repetition == REPEAT_BITS'(REPEATS - 1);
        wire [ADDRESS_BITS-1:0] other = base == '0 ? ADDRESS_BITS'(LENGTH) : '0;

        assign offered = filled > COUNT_BITS'(index);

        always_comb begin
            filled_next = filled + COUNT_BITS'(write);
            if (step && last && final_one) filled_next = filled_next - COUNT_BITS'(LENGTH);
        end

        always_ff @(posedge ap_clk) begin
            if (write) memory[writing] <= in_data;
            beat <= memory[reading];
        end

        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) begin
                writing <= '0;
                reading <= '0;
                base <= '0;
                filled <= '0;
                repetition <= '0;
                in_ready <= 1'b0;
            end else begin
                filled <= filled_next;
                in_ready <= filled_next < COUNT_BITS'(WORDS);
                if (write) writing <= writing == ADDRESS_BITS'(WORDS - 1) ? '0 : writing + 1'b1;
                if (step) begin
                    reading <= reading + 1'b1;
                    if (last) begin
                        reading <= final_one ? other : base;
                        repetition <= final_one ? '0 : repetition + 1'b1;
                        if (final_one) base <= other;
                    end
                end
            end
        end
    end
endmodule

`default_nettype wire
