use strict;
use warnings;

# Called for each event. What it returns comes out: one event, several, or none.
# $event: a reference to a hash of topic, key, time (microseconds since 1970), tags, payload
sub process {
    my ($event) = @_;
    my $payload = $event->{payload};
    return unless ref $payload eq 'HASH' && defined $payload->{value};
    $payload->{value} *= 2;
    return $event;
}

1;
