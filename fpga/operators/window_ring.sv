// Windows word by word: a ring holds the lines that are still needed, and is read tap by tap.
//
// A word is read once it is there and the queue behind has a place. Its position counts on from map
// to map and moves by one of six distances: along a run of words, to the window's next line, to the
// next fold (of a depthwise unit), to the next window of the row, of the next row, of the next map.
// The distance is chosen a step ahead, so that a cycle adds a register to a register. The words
// before a window are free as soon as the last of the window before it is read.
`default_nettype none

module window_ring #(
    parameter int BITS = 8,        // of a word: some channels of a pixel
    parameter int FOLDS = 1,       // words of a pixel
    parameter int HEIGHT = 1,
    parameter int WIDTH = 1,
    parameter int KERNEL_H = 1,
    parameter int KERNEL_W = 1,
    parameter int STRIDE_H = 1,
    parameter int STRIDE_W = 1,
    parameter bit DEPTHWISE = 0,   // all taps of a fold, then the next fold
    parameter int DEPTH = 8,       // words of the ring
    parameter string STYLE = "auto"
) (
    input  wire              ap_clk,
    input  wire              ap_rst_n,

    input  wire  [BITS-1:0]  in_word,
    input  wire              in_valid,
    output logic             in_ready,

    input  wire              credit,
    output logic             spend,
    output logic             push,
    output logic [BITS-1:0]  word
);
    localparam int LINE = WIDTH * FOLDS;
    localparam int RUN = DEPTHWISE ? KERNEL_W : KERNEL_W * FOLDS;
    localparam int GROUPS = DEPTHWISE ? FOLDS : 1;
    localparam int OUT_H = (HEIGHT - KERNEL_H) / STRIDE_H + 1;
    localparam int OUT_W = (WIDTH - KERNEL_W) / STRIDE_W + 1;

    // from a window's first word to its last, and to the first of the window after it
    localparam int SPAN = (KERNEL_H - 1) * LINE + KERNEL_W * FOLDS - 1;
    localparam int TO_WINDOW = STRIDE_W * FOLDS;
    localparam int ROW_SPAN = (OUT_W - 1) * TO_WINDOW;
    localparam int TO_ROW = STRIDE_H * LINE - ROW_SPAN;
    localparam int TO_MAP = (HEIGHT - (OUT_H - 1) * STRIDE_H) * LINE - ROW_SPAN;
    if (DEPTH < SPAN + 1) $error("window_ring: DEPTH=%0d, expected %0d or more", DEPTH, SPAN + 1);

    // from a word to the next one
    localparam int ALONG_RUN = DEPTHWISE ? FOLDS : 1;
    localparam int TO_LINE = LINE - (RUN - 1) * ALONG_RUN;
    localparam int TO_GROUP = 1 - (KERNEL_H - 1) * LINE - (KERNEL_W - 1) * FOLDS;

    localparam int FARTHEST = TO_ROW > TO_MAP ? (TO_ROW > TO_WINDOW ? TO_ROW : TO_WINDOW)
                                              : (TO_MAP > TO_WINDOW ? TO_MAP : TO_WINDOW);
    localparam int ADDRESS_BITS = $clog2(DEPTH);
    localparam int COUNT_BITS = $clog2(DEPTH + FARTHEST + 1) + 1;
    typedef logic [ADDRESS_BITS-1:0] address_t;
    typedef logic signed [COUNT_BITS-1:0] count_t;
    typedef struct packed {
        logic [ADDRESS_BITS:0] hop;    // of the address, within the ring
        logic [ADDRESS_BITS:0] wraps;  // ... less the ring
        count_t back;                  // the distance, negative
        count_t freed;                 // words that are not needed after this one, less 1
    } move_t;

    function automatic move_t move_of(int distance, int freed);
        int hop = ((distance % DEPTH) + DEPTH) % DEPTH;
        return '{(ADDRESS_BITS + 1)'(hop), (ADDRESS_BITS + 1)'(hop - DEPTH), count_t'(-distance),
                 count_t'(freed - 1)};
    endfunction
    localparam move_t MOVE_RUN = move_of(ALONG_RUN, 0);
    localparam move_t MOVE_LINE = move_of(TO_LINE, 0);
    localparam move_t MOVE_GROUP = move_of(TO_GROUP, 0);
    localparam move_t MOVE_WINDOW = move_of(TO_WINDOW - SPAN, TO_WINDOW);
    localparam move_t MOVE_ROW = move_of(TO_ROW - SPAN, TO_ROW);
    localparam move_t MOVE_MAP = move_of(TO_MAP - SPAN, TO_MAP);

    (* ram_style = STYLE *) logic [BITS-1:0] ring [DEPTH];
    logic [BITS-1:0] read_word;
    address_t write, read;
    count_t room;       // free words, less 1
    count_t ahead;      // words from the one that is read next on, less 1
    move_t move;        // from the word that is read next to the one after it
    logic primed;       // `move` is chosen
    logic read_valid;
    logic last_word, last_run, last_line, last_group, last_window, last_row;

    wire take = in_valid && in_ready;
    wire step = spend || !primed;
    assign in_ready = !room[COUNT_BITS-1];
    assign spend = primed && credit && !ahead[COUNT_BITS-1];

    // the counters are a word ahead of the address
    wire step_line = step && last_run;
    wire step_group = step_line && last_line;
    wire step_window = step && last_run && last_line && last_group;
    wire step_row = step && last_run && last_line && last_group && last_window;
    logic [$clog2(RUN+1)-1:0] run;
    logic [$clog2(KERNEL_H+1)-1:0] line;
    logic [$clog2(GROUPS+1)-1:0] group;
    logic [$clog2(OUT_W+1)-1:0] window;
    logic [$clog2(OUT_H+1)-1:0] row;
    wrap_counter #(.COUNT(RUN), .BITS($bits(run))) runs (
        .ap_clk, .ap_rst_n, .step(step), .value(run), .last(last_run)
    );
    wrap_counter #(.COUNT(KERNEL_H), .BITS($bits(line))) lines (
        .ap_clk, .ap_rst_n, .step(step_line), .value(line), .last(last_line)
    );
    wrap_counter #(.COUNT(GROUPS), .BITS($bits(group))) groups (
        .ap_clk, .ap_rst_n, .step(step_group), .value(group), .last(last_group)
    );
    wrap_counter #(.COUNT(OUT_W), .BITS($bits(window))) windows (
        .ap_clk, .ap_rst_n, .step(step_window), .value(window), .last(last_window)
    );
    wrap_counter #(.COUNT(OUT_H), .BITS($bits(row))) rows (
        .ap_clk, .ap_rst_n, .step(step_row), .value(row), .last(last_row)
    );

    always_ff @(posedge ap_clk) begin
        if (step) begin
            if (!last_run) move <= MOVE_RUN;
            else if (!last_line) move <= MOVE_LINE;
            else if (!last_group) move <= MOVE_GROUP;
            else if (!last_window) move <= MOVE_WINDOW;
            else if (!last_row) move <= MOVE_ROW;
            else move <= MOVE_MAP;
        end
    end

    wire [ADDRESS_BITS:0] wrapped = {1'b0, read} + move.wraps;
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            primed <= 1'b0;
            read <= '0;
            ahead <= '1;
            room <= count_t'(DEPTH - 1);
        end else begin
            primed <= 1'b1;
            if (spend) begin
                read <= wrapped[ADDRESS_BITS] ? read + address_t'(move.hop) : address_t'(wrapped);
            end
            ahead <= ahead + (spend ? move.back : '0) + count_t'({1'b0, take});
            room <= room + (spend ? move.freed : '1) + count_t'({1'b0, !take});
        end
    end

    wrap_counter #(.COUNT(DEPTH), .BITS(ADDRESS_BITS)) writes (
        .ap_clk, .ap_rst_n, .step(take), .value(write), .last(last_word)
    );

    // a second register, where the memory is of several blocks
    always_ff @(posedge ap_clk) begin
        if (take) ring[write] <= in_word;
        read_word <= ring[read];
        word <= read_word;
    end
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) {push, read_valid} <= '0;
        else {push, read_valid} <= {read_valid, spend};
    end
endmodule

`default_nettype wire
