// The DRAM of a simulation, behind one AXI4 port of 64 bits; it is no part of a design.
//
// It answers in order, as a port with one ID does. A write is confirmed, and a read begins, a random
// number of cycles after all of the write came or the read was asked for; both directions together
// move at most one beat a cycle, or less often where SLOW says so. axi_memory.hex has, one a line:
// the seed, the fewest and the most cycles of a write and of a read, SLOW (one beat in so many
// cycles, 1 for each), the number of the answer that is an error (0: none; writes and reads count
// together), the chance of 256 that an address waits a cycle.
// What is written is there when it is confirmed, and what is read is what is there when it comes, so
// that a design that does not wait reads something else. The simulation ends with an error where a
// burst leaves the memory or crosses a border of 4096 bytes, what is offered changes before it is
// taken, WLAST is at another beat than the address said, an ID is not 0, a burst is read that is not
// confirmed, or written while it is read, or where the design says that it saw an error.
`default_nettype none

module axi_memory #(
    parameter int BEATS = 4096,
    parameter int ADDRESS_BITS = 40,
    parameter logic [ADDRESS_BITS-1:0] BASE = '0
) (
    input  wire                     ap_clk,
    input  wire                     ap_rst_n,
    input  wire                     failed,  // what the design says

    input  wire  [0:0]              awid,
    input  wire  [ADDRESS_BITS-1:0] awaddr,
    input  wire  [7:0]              awlen,
    input  wire  [2:0]              awsize,
    input  wire  [1:0]              awburst,
    input  wire                     awvalid,
    output logic                    awready,
    input  wire  [63:0]             wdata,
    input  wire  [7:0]              wstrb,
    input  wire                     wlast,
    input  wire                     wvalid,
    output logic                    wready,
    output logic [0:0]              bid,
    output logic [1:0]              bresp,
    output logic                    bvalid,
    input  wire                     bready,
    input  wire  [0:0]              arid,
    input  wire  [ADDRESS_BITS-1:0] araddr,
    input  wire  [7:0]              arlen,
    input  wire  [2:0]              arsize,
    input  wire  [1:0]              arburst,
    input  wire                     arvalid,
    output logic                    arready,
    output logic [0:0]              rid,
    output logic [63:0]             rdata,
    output logic [1:0]              rresp,
    output logic                    rlast,
    output logic                    rvalid,
    input  wire                     rready
);
    localparam int QUEUE = 64;  // bursts of a direction that are on their way
    typedef struct {
        int start, beats;
        longint due;
    } burst_t;

    logic [63:0] memory[BEATS];
    logic [63:0] pending[QUEUE*256];  // of bursts that are not confirmed
    burst_t writes[QUEUE], reads[QUEUE];
    int asked_writes, filled_writes, done_writes, asked_reads, done_reads;
    int write_beat, read_beat, answers, moved;
    longint now, random_state;
    logic [31:0] values[8];
    bit write_turn;

    initial $readmemh("axi_memory.hex", values);

    function automatic int random();
        random_state = random_state ^ (random_state << 13);
        random_state = random_state ^ (random_state >>> 7);
        random_state = random_state ^ (random_state << 17);
        return int'(random_state[40:10]);
    endfunction
    function automatic longint later(input int index);
        automatic int spread = int'(values[index+1] - values[index]);
        return now + longint'(values[index]) + longint'(random() % (spread + 1));
    endfunction
    function automatic void stop(input string what);
        $fatal(1, "DRAM: %s, in cycle %0d", what, now);
    endfunction
    // the checks of an address; returns the first beat
    function automatic int first_beat(
        input string kind, input logic [ADDRESS_BITS-1:0] address, input logic [7:0] len,
        input logic [2:0] size, input logic [1:0] burst, input logic [0:0] id
    );
        automatic longint offset = longint'(address) - longint'(BASE);
        automatic longint last = longint'(address) + longint'(len) * 8;
        if (offset < 0 || offset / 8 + longint'(len) >= longint'(BEATS))
            stop({kind, " beyond the memory that there is"});
        if (offset % 8 != 0) stop({kind, " of an address that is no multiple of 8"});
        if (longint'(address) / 4096 != last / 4096) stop({kind, " across a border of 4096 bytes"});
        if (size != 3'd3 || burst != 2'b01) stop({kind, " that is no INCR burst of 8 bytes a beat"});
        if (id != 0) stop({kind, " with an ID that is not 0"});
        return int'(offset / 8);
    endfunction
    function automatic bit overlap(input burst_t other, input int start, input int beats);
        return start < other.start + other.beats && other.start < start + beats;
    endfunction
    function automatic logic [1:0] answer();
        answers = answers + 1;
        return answers == int'(values[6]) ? 2'b10 : 2'b00;
    endfunction

    assign bid = 1'b0;
    assign rid = 1'b0;

    // what was offered in the cycle before without being taken
    logic [ADDRESS_BITS+7:0] held_aw, held_ar;
    logic [64:0] held_w;
    bit waits_aw, waits_w, waits_ar;
    always @(posedge ap_clk) begin
        if (ap_rst_n) begin
            if (waits_aw && (!awvalid || held_aw != {awaddr, awlen}))
                stop("an address to write changed before it was taken");
            if (waits_w && (!wvalid || held_w != {wlast, wdata}))
                stop("data to write changed before they were taken");
            if (waits_ar && (!arvalid || held_ar != {araddr, arlen}))
                stop("an address to read changed before it was taken");
            if (failed) stop("the design saw an error");
        end
        waits_aw <= ap_rst_n && awvalid && !awready;
        waits_w <= ap_rst_n && wvalid && !wready;
        waits_ar <= ap_rst_n && arvalid && !arready;
        held_aw <= {awaddr, awlen};
        held_w <= {wlast, wdata};
        held_ar <= {araddr, arlen};
    end

    always @(posedge ap_clk) begin
        automatic bit wants_write, wants_read, moves;
        automatic int at;
        if (!ap_rst_n) begin
            {asked_writes, filled_writes, done_writes, asked_reads, done_reads} = '0;
            {write_beat, read_beat, answers, moved} = '0;
            now = 0;
            random_state = longint'(values[0]) * 64'h9E3779B97F4A7C15 + 64'd88172645463325252;
            write_turn = 1'b0;
            awready <= 1'b0;
            wready <= 1'b0;
            bvalid <= 1'b0;
            arready <= 1'b0;
            rvalid <= 1'b0;
        end else begin
            now = now + 1;
            if (awvalid && awready) begin
                at = asked_writes % QUEUE;
                writes[at].start = first_beat("a write", awaddr, awlen, awsize, awburst, awid);
                writes[at].beats = int'(awlen) + 1;
                for (int i = done_reads; i < asked_reads; i++)
                    if (overlap(reads[i%QUEUE], writes[at].start, writes[at].beats))
                        stop("a write of what is being read");
                asked_writes = asked_writes + 1;
            end
            if (wvalid && wready) begin
                at = filled_writes % QUEUE;
                if (wstrb != '1) stop("a write of a part of a beat");
                if (wlast != (write_beat + 1 == writes[at].beats)) stop("WLAST at another beat");
                pending[at*256+write_beat] = wdata;
                write_beat = write_beat + 1;
                moved = moved + 1;
                if (write_beat == writes[at].beats) begin
                    write_beat = 0;
                    writes[at].due = later(1);
                    filled_writes = filled_writes + 1;
                end
            end
            if (bvalid && bready) bvalid <= 1'b0;
            if ((!bvalid || bready) && done_writes < filled_writes &&
                writes[done_writes%QUEUE].due <= now) begin
                at = done_writes % QUEUE;
                for (int i = 0; i < writes[at].beats; i++)
                    memory[writes[at].start+i] = pending[at*256+i];
                bvalid <= 1'b1;
                bresp <= answer();
                done_writes = done_writes + 1;
            end
            if (arvalid && arready) begin
                at = asked_reads % QUEUE;
                reads[at].start = first_beat("a read", araddr, arlen, arsize, arburst, arid);
                reads[at].beats = int'(arlen) + 1;
                for (int i = done_writes; i < asked_writes; i++)
                    if (overlap(writes[i%QUEUE], reads[at].start, reads[at].beats))
                        stop("a read of what is not confirmed");
                reads[at].due = later(3);
                asked_reads = asked_reads + 1;
            end
            // a beat a cycle at most, in turn where both directions have one
            moves = now % longint'(values[5]) == 0;
            wants_write = wvalid && asked_writes > filled_writes;
            wants_read = done_reads < asked_reads && reads[done_reads%QUEUE].due <= now;
            write_turn = wants_write && (!wants_read || !write_turn);
            wready <= moves && write_turn;
            if (rvalid && rready) rvalid <= 1'b0;
            if (moves && wants_read && !write_turn && (!rvalid || rready)) begin
                at = done_reads % QUEUE;
                rvalid <= 1'b1;
                rdata <= memory[reads[at].start+read_beat];
                rlast <= read_beat + 1 == reads[at].beats;
                rresp <= read_beat == 0 ? answer() : 2'b00;
                read_beat = read_beat + 1;
                moved = moved + 1;
                if (read_beat == reads[at].beats) begin
                    read_beat = 0;
                    done_reads = done_reads + 1;
                end
            end
            awready <= asked_writes - done_writes < QUEUE - 2 && random() % 256 >= int'(values[7]);
            arready <= asked_reads - done_reads < QUEUE - 2 && random() % 256 >= int'(values[7]);
        end
    end
    final begin
        $display("counter %m.beats %0d", moved);
        $display("counter %m.cycles %0d", now);
    end
    wire unused = &{1'b0, awid, arid};
endmodule

`default_nettype wire
