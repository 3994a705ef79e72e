// A queue of words whose middle is a ring in the board's DRAM, behind a dram_port.
//
// PACK words are a beat of 64 bits, BURST beats a burst, which has a slot of BURST * 8 bytes in the
// ring. A burst is asked to be written when all of it is in the write buffer (one block RAM), and may
// be read when the DRAM has confirmed the write. A read is asked for only where the read buffer (one
// block RAM) has room for all of it, so that what comes is always taken, and a slot is free again when
// all of it came. Both directions have several bursts on their way: 8 writes, and as many reads as the
// read buffer holds. The last burst of an image has only the beats that are left of it, so that no end
// of an image waits for the next one.
// Bandwidth: FRAME beats of 8 bytes an image, written once and read once. Where the DRAM is slower,
// the buffers and then the ring fill up and the stream waits; no word is lost. A word takes the time in
// which a burst fills, and both latencies of the DRAM: what needs it must need it later than that.
// Everything is a flip-flop between the stream and the DRAM: no ready passes through. After a reset
// while a burst is on its way, its answer would be taken for that of another: reset the DRAM's port too.
// A simulation tells what fifo.sv tells; the depth needed is the most words that were inside.
`default_nettype none

`ifdef VERILATOR
`define USED_SLOTS slots
`else
`define USED_SLOTS SLOTS
`endif

module dram_fifo #(
    parameter int BITS      = 8,
    parameter int PACK      = 8,    // words of a beat
    parameter int BURST     = 64,   // beats, a power of two
    parameter int FRAME     = 64,   // beats of an image
    parameter int FIRST     = 0,    // number of the ring's first slot
    parameter int SLOTS     = 2,    // of the ring
    parameter int BUFFER    = 512,  // beats of each buffer
    parameter int WRITES    = 8,    // bursts whose writing is not confirmed, at most
    parameter int SLOT_BITS = 24
) (
    input  wire                        ap_clk,
    input  wire                        ap_rst_n,

    input  wire  [((BITS+7)/8)*8-1:0]  in0_V_tdata,
    input  wire                        in0_V_tvalid,
    output logic                       in0_V_tready,

    output logic [((BITS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                       out0_V_tvalid,
    input  wire                        out0_V_tready,

    output logic [SLOT_BITS-1:0]       write_slot,
    output logic [8:0]                 write_beats,
    output logic                       write_valid,
    input  wire                        write_ready,
    output logic [63:0]                write_data,
    output logic                       write_last,
    output logic                       write_data_valid,
    input  wire                        write_data_ready,
    input  wire                        written,  // in one cycle for each burst

    output logic [SLOT_BITS-1:0]       read_slot,
    output logic [8:0]                 read_beats,
    output logic                       read_valid,
    input  wire                        read_ready,
    input  wire  [63:0]                read_data,
    input  wire                        read_last,
    input  wire                        read_data_valid
);
    if (BITS < 1 || PACK < 1 || BITS * PACK > 64)
        $error("dram_fifo: BITS=%0d, PACK=%0d, expected words of 1 to 64 bits together", BITS, PACK);
    if (BURST < 1 || BURST > 256 || (BURST & (BURST - 1)) != 0 || BUFFER < 2 * BURST)
        $error("dram_fifo: BURST=%0d, BUFFER=%0d, expected a power of two to 256 and two bursts",
               BURST, BUFFER);
    if (FRAME < 1 || SLOTS < 2 || FIRST < 0 || FIRST + SLOTS > (1 << SLOT_BITS))
        $error("dram_fifo: FRAME=%0d, SLOTS=%0d, expected 1 and 2 or more", FRAME, SLOTS);

    localparam int BEAT_BITS = BITS * PACK;
    localparam int PORT_BITS = ((BEAT_BITS + 7) / 8) * 8;
    localparam int BURSTS = (FRAME + BURST - 1) / BURST;     // of an image
    localparam int REST = FRAME - (BURSTS - 1) * BURST;      // beats of the last of them
    localparam int PLACE_BITS = $clog2(FIRST + SLOTS);
    typedef logic [PLACE_BITS-1:0] place_t;
    typedef logic [$clog2(SLOTS+1)-1:0] slots_t;
    typedef logic [$clog2(BUFFER+1)-1:0] room_t;

`ifdef VERILATOR
    import "DPI-C" function int stream_open(input string path);
    import "DPI-C" function int stream_rows(input int stream, input int compiled, input int whole);
    import "DPI-C" function void stream_word(input int stream, input longint unsigned part);
    int stream, slots;
    initial begin
        stream = stream_open($sformatf("%m"));
        slots = stream_rows(stream, SLOTS, 1);
    end
    always @(posedge ap_clk)
        if (ap_rst_n && stream >= 0 && in0_V_tvalid && in0_V_tready)
            stream_word(stream, 64'(in0_V_tdata[BITS-1:0]));
`endif

    // into the write buffer, each beat with the flag of the last one of its burst
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
    logic [8:0] entered;
    logic enters_rest;
    wire enter = joined_valid && joined_ready;
    wire ends = entered == (enters_rest ? 9'(REST - 1) : 9'(BURST - 1));
    wire whole_burst = enter && ends;
    dram_image #(.BURSTS(BURSTS)) entering (
        .ap_clk, .ap_rst_n, .step(whole_burst), .last(enters_rest)
    );
    logic [BEAT_BITS:0] buffered;
    fifo_segment #(.BITS(BEAT_BITS + 1), .ROWS(BUFFER), .RAM_STYLE("block")) write_buffer (
        .ap_clk, .ap_rst_n, .rows(32'(BUFFER)),
        .in_data({ends, joined[BEAT_BITS-1:0]}), .in_valid(joined_valid), .in_ready(joined_ready),
        .out_data(buffered), .out_valid(write_data_valid), .out_ready(write_data_ready)
    );
    assign write_data = 64'(buffered[BEAT_BITS-1:0]);
    assign write_last = buffered[BEAT_BITS];

    // bursts: in the write buffer and not asked for; not confirmed; confirmed and not asked for
    localparam int WHOLE_BITS = $clog2(BUFFER + 3);
    logic [WHOLE_BITS-1:0] waiting;
    logic [$clog2(WRITES+1)-1:0] writing;
    slots_t free, readable;
    place_t write_place, read_place;
    logic may_write, may_read, writes_rest, reads_rest;
    wire came = read_data_valid && read_last;
    // the flags are a cycle late, in which the request itself forbids the next one
    wire ask_write = may_write && !write_valid;
    wire ask_read = may_read && !read_valid;
    wire place_t last_place = place_t'(FIRST + `USED_SLOTS - 1);

    dram_image #(.BURSTS(BURSTS)) asking_write (
        .ap_clk, .ap_rst_n, .step(ask_write), .last(writes_rest)
    );
    dram_image #(.BURSTS(BURSTS)) asking_read (
        .ap_clk, .ap_rst_n, .step(ask_read), .last(reads_rest)
    );
    wire [8:0] next_read = reads_rest ? 9'(REST) : 9'(BURST);

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            entered <= '0;
            waiting <= '0;
            writing <= '0;
            free <= slots_t'(`USED_SLOTS);
            readable <= '0;
            may_write <= 1'b0;
            write_valid <= 1'b0;
            write_place <= place_t'(FIRST);
        end else begin
            if (enter) entered <= ends ? '0 : entered + 1'b1;
            if (whole_burst != ask_write)
                waiting <= ask_write ? waiting - 1'b1 : waiting + 1'b1;
            if (ask_write != written) writing <= written ? writing - 1'b1 : writing + 1'b1;
            if (ask_write != came) free <= ask_write ? free - 1'b1 : free + 1'b1;
            if (written != ask_read) readable <= ask_read ? readable - 1'b1 : readable + 1'b1;
            may_write <= waiting != '0 && free != '0 && int'(writing) != WRITES;
            if (ask_write) write_valid <= 1'b1;
            else if (write_ready) write_valid <= 1'b0;
            if (write_valid && write_ready)
                write_place <= write_place == last_place ? place_t'(FIRST) : write_place + 1'b1;
        end
    end
    always_ff @(posedge ap_clk) if (ask_write) write_beats <= writes_rest ? 9'(REST) : 9'(BURST);
    assign write_slot = SLOT_BITS'(write_place);

    // out of the read buffer
    room_t room;
    logic [BEAT_BITS-1:0] parted;
    logic parted_valid, parted_ready, fits;
    wire leaves = parted_valid && parted_ready;
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            room <= room_t'(BUFFER);
            may_read <= 1'b0;
            read_valid <= 1'b0;
            read_place <= place_t'(FIRST);
        end else begin
            room <= room + room_t'(leaves) - (ask_read ? room_t'(next_read) : '0);
            may_read <= readable != '0 && room >= room_t'(BURST);
            if (ask_read) read_valid <= 1'b1;
            else if (read_ready) read_valid <= 1'b0;
            if (read_valid && read_ready)
                read_place <= read_place == last_place ? place_t'(FIRST) : read_place + 1'b1;
        end
    end
    always_ff @(posedge ap_clk) if (ask_read) read_beats <= next_read;
    assign read_slot = SLOT_BITS'(read_place);
    fifo_segment #(.BITS(BEAT_BITS), .ROWS(BUFFER), .RAM_STYLE("block")) read_buffer (
        .ap_clk, .ap_rst_n, .rows(32'(BUFFER)),
        .in_data(read_data[BEAT_BITS-1:0]), .in_valid(read_data_valid), .in_ready(fits),
        .out_data(parted), .out_valid(parted_valid), .out_ready(parted_ready)
    );
    // with one word a beat a register of two words
    width_converter #(
        .INPUT_BITS(BEAT_BITS), .OUTPUT_BITS(BITS), .COMMON_BITS(BEAT_BITS)
    ) part_words (
        .ap_clk, .ap_rst_n, .in0_V_tdata(PORT_BITS'(parted)), .in0_V_tvalid(parted_valid),
        .in0_V_tready(parted_ready), .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
    wire unused = &{1'b0, read_data, joined, fits};

`ifdef VERILATOR
    // the time is the number of the cycle since the reset
    int held, needed, blocked, first, last;
    bit taken;
    wire take = in0_V_tvalid && in0_V_tready;
    wire give = out0_V_tvalid && out0_V_tready;
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            held <= 0;
            needed <= 0;
            blocked <= 0;
            taken <= 1'b0;
        end else begin
            held <= held + 32'(take) - 32'(give);
            if (take && held >= needed) needed <= held + 1;
            if (in0_V_tvalid && !in0_V_tready) blocked <= blocked + 1;
            if (take && !taken) first <= int'($time);
            if (take) last <= int'($time);
            if (take) taken <= 1'b1;
            if (read_data_valid && !fits) $fatal(1, "%m: the read buffer overflows");
        end
    end
    final begin
        $display("counter %m.needed %0d", needed < 5 ? 5 : needed);
        $display("counter %m.blocked %0d", blocked);
        if (taken) $display("counter %m.first %0d", first);
        if (taken) $display("counter %m.last %0d", last);
    end
`endif
endmodule

`undef USED_SLOTS
`default_nettype wire
