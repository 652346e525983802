package Busbar;

# What a plug-in can ask of Busbar: settings, log lines, and rows of tables.
#
#     my $station = Busbar::get('stations', id => $event->{payload}{station});

use strict;
use warnings;

our (%settings, $ask, $write);

# Writes a line to the plug-in's log; the level is debug, info, warning or error.
sub say_log {
    my ($message, $level) = @_;
    $write->({ type => 'log', level => $level // 'info', message => "$message" });
    return;
}

# The row of a table whose columns have these values, as a hash reference; undef if there is none.
sub get {
    my ($table, %where) = @_;
    my $rows = $ask->({ table => $table, where => \%where, limit => 1 });
    return $rows->[0];
}

# The rows of a table whose columns have these values.
sub scan {
    my ($table, %where) = @_;
    return @{ $ask->({ table => $table, where => \%where }) };
}

# The rows of a query over the file of a relational table; `?` stands for the parameters in order.
sub query {
    my ($table, $sql, @parameters) = @_;
    return @{ $ask->({ table => $table, sql => $sql, parameters => \@parameters }) };
}

1;
