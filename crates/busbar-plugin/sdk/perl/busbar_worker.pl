# Runs a plug-in in Perl: reads batches of events from standard input and answers on standard output.

use strict;
use warnings;

use Cwd ();
use JSON::PP ();

use Busbar ();

# What the program prints goes to the log; only frames go to the node.
open(my $out, '>&', \*STDOUT) or die "standard output: $!";
open(STDOUT, '>&', \*STDERR) or die "standard error: $!";
open(my $in, '<&', \*STDIN) or die "standard input: $!";
open(STDIN, '<', '/dev/null') or die "standard input: $!";
binmode $_ for $out, $in;
$| = 1;

my $json = JSON::PP->new->utf8->allow_nonref;
my @waiting;
my $asked = 0;

$Busbar::write = sub {
    my ($frame) = @_;
    my $line = $json->encode($frame) . "\n";
    my $sent = 0;
    while ($sent < length $line) {
        my $bytes = syswrite($out, $line, length($line) - $sent, $sent);
        exit 1 unless defined $bytes;
        $sent += $bytes;
    }
};
$Busbar::ask = sub {
    my ($request) = @_;
    $asked++;
    $Busbar::write->({ type => 'rows', id => $asked, request => $request });
    while (defined(my $line = <$in>)) {
        my $frame = $json->decode($line);
        if ($frame->{type} eq 'rows' && $frame->{id} == $asked) {
            die "$frame->{error}\n" if exists $frame->{error};
            return $frame->{rows};
        }
        push @waiting, $frame;
    }
    exit 0;
};

# An error with the place in the plug-in's own files that it names.
sub failure {
    my ($error) = @_;
    my $message = "$error";
    my $folder = Cwd::getcwd() . '/';
    $message =~ s/\Q$folder\E//g;
    $message =~ s{\./}{}g;
    if ($message =~ /\A(.*?) at (\S+) line (\d+)/s) {
        return { message => $1, file => $2, line => $3 + 0 };
    }
    chomp $message;
    return { message => $message };
}

my $start = $json->decode(scalar <$in>);
%Busbar::settings = %{ $start->{settings} };
my $loaded = do "./$start->{main}";
my $wrong = $@ || (defined $loaded ? '' : $!);
my $process = main->can('process');
$wrong ||= "$start->{main} defines no sub process" unless $process;
if ($wrong) {
    $Busbar::write->({ type => 'failed', error => failure($wrong) });
    exit 0;
}
$Busbar::write->({ type => 'ready', protocol => 1, credit => 2 });

while (1) {
    my $frame = shift @waiting;
    unless ($frame) {
        my $line = <$in>;
        last unless defined $line;
        $frame = $json->decode($line);
    }
    if ($frame->{type} eq 'batch') {
        my @results;
        for my $event (@{ $frame->{events} }) {
            my @made = eval { $process->($event) };
            if (my $error = $@) {
                push @results, { error => failure($error) };
            }
            elsif (!eval { $json->encode(\@made); 1 }) {
                push @results, { error => { message => "the result is no JSON: $@" } };
            }
            else {
                push @results, [grep { defined } @made];
            }
        }
        $Busbar::write->({ type => 'result', id => $frame->{id}, events => \@results });
    }
    elsif ($frame->{type} eq 'ping') {
        $Busbar::write->({ type => 'pong' });
    }
    elsif ($frame->{type} eq 'stop') {
        last;
    }
}
