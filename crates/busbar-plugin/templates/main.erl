-module(main).
-export([process/1]).

%% Called for each event. What it returns comes out: one event, a list of events, or null.
%% An event is a map of topic, key, time (microseconds since 1970), tags and payload, all keys binaries.
process(#{<<"payload">> := #{<<"value">> := Value} = Payload} = Event) ->
    Event#{<<"payload">> := Payload#{<<"value">> := Value * 2}};
process(_Event) ->
    null.
