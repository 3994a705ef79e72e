# Synthesises, places and routes the network whose RTL was simulated, out of context, and writes
# the reports on it. Vivado runs it in its folder, beside design.tcl and clock.xdc:
#
#     vivado -mode batch -source implement.tcl

set here [file dirname [file normalize [info script]]]
set rtl [file join [file dirname $here] rtl]
# sets part and top
source [file join $here design.tcl]

# A memory whose file is not found would stay empty and be optimised away, and what reads it too.
set_msg_config -id {Synth 8-4445} -new_severity {ERROR}

proc content {path} {
    set channel [open $path]
    set text [read $channel]
    close $channel
    return $text
}

# in the order in which they must be read; the module of the whole network is the last
set sources [split [string trim [content [file join $rtl sources.txt]]] "\n"]
set network [content [file join $rtl [lindex $sources end]]]

# $readmemh takes names from a folder that depends on the tool: give it whole paths. The network
# names all memories, which are the files beside its sources.
set places {}
foreach path [lsort [glob -directory $rtl -type f *]] {
    set name [file tail $path]
    if {$name eq "sources.txt" || [lsearch -exact $sources $name] >= 0} continue
    if {[string first "\"$name\"" $network] < 0} {
        error "[lindex $sources end] names no memory $name: the folder rtl is not as it was written"
    }
    lappend places "\"$name\"" "\"$path\""
}
set placed [file join $here $top.sv]
set channel [open $placed w]
puts -nonewline $channel [string map $places $network]
close $channel

foreach name [lrange $sources 0 end-1] {
    read_verilog -sv [file join $rtl $name]
}
read_verilog -sv $placed
read_xdc [file join $here clock.xdc]

synth_design -top $top -part $part -mode out_of_context
opt_design
place_design
phys_opt_design
route_design

report_route_status -file [file join $here route.rpt]
report_timing_summary -file [file join $here timing.rpt]
report_utilization -file [file join $here utilization.rpt]
