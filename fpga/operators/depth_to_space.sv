// Blocks of FACTOR rows out of the channels: a pixel's beats come row of its block by row, and go out
// row of the map by row.
//
// A pixel of the input is FACTOR times BEATS beats, WIDTH pixels a row. Beats of the same row of
// their blocks are a queue in a region of the memory of its own; the rows are put out one after the
// other. While one is put out, the next pixels come in, so that a region has room for more or less
// than a row. Throughput one beat a cycle, in and out.
`default_nettype none

module depth_to_space #(
    parameter int BITS = 8,
    parameter int BEATS = 2,      // of a pixel, of one row of its block
    parameter int WIDTH = 4,
    parameter int FACTOR = 2,
    parameter int SPARE = BEATS + 4,
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
    if (BITS < 1 || BEATS < 1 || WIDTH < 1 || FACTOR < 2)
        $error("depth_to_space: BITS=%0d, BEATS=%0d, WIDTH=%0d, FACTOR=%0d, expected 1, 1, 1, 2 up",
               BITS, BEATS, WIDTH, FACTOR);
    if (SPARE < BEATS + 4)
        $error("depth_to_space: SPARE=%0d, expected %0d or more", SPARE, BEATS + 4);

    localparam int PORT_BITS = ((BITS + 7) / 8) * 8;
    localparam int ROW = WIDTH * BEATS;

    // What waits in a region at most: of row 0 what comes while the others are put out; of row i a
    // whole row, and what comes while rows 1 to i - 1 are.
    function automatic int places(int region);
        int beats;
        beats = region == 0 ? ROW * (FACTOR - 1) : ROW * (FACTOR + region - 1);
        return (beats + FACTOR - 1) / FACTOR + SPARE;
    endfunction

    function automatic int first_of(int region);
        int sum;
        sum = 0;
        for (int i = 0; i < region; i++) sum += places(i);
        return sum;
    endfunction

    localparam int DEPTH = first_of(FACTOR);
    localparam int ADDRESS_BITS = $clog2(DEPTH);
    localparam int COUNT_BITS = $clog2(DEPTH + 1);
    localparam int REGION_BITS = $clog2(FACTOR);
    typedef logic [ADDRESS_BITS-1:0] address_t;
    typedef logic [COUNT_BITS-1:0] count_t;
    typedef logic [REGION_BITS-1:0] region_t;

    (* ram_style = RAM_STYLE *) logic [BITS-1:0] memory [DEPTH];
    logic [BITS-1:0] word;
    logic step, word_valid;

    address_t [FACTOR-1:0] write, read;
    logic [FACTOR-1:0] room, some;
    region_t from, to;  // of what is put out and of what comes in
    wire last_beat, last_place;

    wire put = step && some[from];
    wire take = in0_V_tvalid && in0_V_tready;
    assign in0_V_tready = room[to];

    for (genvar i = 0; i < FACTOR; i++) begin : g_region
        localparam int FIRST = first_of(i);
        localparam int LAST = first_of(i + 1) - 1;
        count_t held;  // words that were not yet put out
        wire taken = take && to == region_t'(i);
        wire given = put && from == region_t'(i);
        assign some[i] = held != '0;

        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) begin
                write[i] <= address_t'(FIRST);
                read[i] <= address_t'(FIRST);
                held <= '0;
                room[i] <= 1'b1;
            end else begin
                if (taken) write[i] <= write[i] == address_t'(LAST) ? address_t'(FIRST)
                                                                    : write[i] + 1'b1;
                if (given) read[i] <= read[i] == address_t'(LAST) ? address_t'(FIRST)
                                                                  : read[i] + 1'b1;
                held <= held + count_t'(taken) - count_t'(given);
                // a cycle late, so that one more may come
                room[i] <= held < count_t'(LAST - FIRST - 1);
            end
        end
    end

    localparam int BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam int PLACE_BITS = ROW > 1 ? $clog2(ROW) : 1;
    wire [BEAT_BITS-1:0] beat;
    wire [PLACE_BITS-1:0] place;
    wrap_counter #(.COUNT(BEATS)) of_beats (
        .ap_clk, .ap_rst_n, .step(take), .value(beat), .last(last_beat)
    );
    wrap_counter #(.COUNT(ROW)) of_places (
        .ap_clk, .ap_rst_n, .step(put), .value(place), .last(last_place)
    );
    wire unused = &{1'b0, beat, place};

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            to <= '0;
            from <= '0;
        end else begin
            if (take && last_beat) to <= to == region_t'(FACTOR - 1) ? '0 : to + 1'b1;
            if (put && last_place) from <= from == region_t'(FACTOR - 1) ? '0 : from + 1'b1;
        end
    end

    always_ff @(posedge ap_clk) begin
        if (take) memory[write[to]] <= in0_V_tdata[BITS-1:0];
        if (step) word <= memory[read[from]];
    end

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) word_valid <= 1'b0;
        else if (step) word_valid <= put;
    end

    stream_register #(.BITS(BITS)) register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata(PORT_BITS'(word)), .in0_V_tvalid(word_valid), .in0_V_tready(step),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
