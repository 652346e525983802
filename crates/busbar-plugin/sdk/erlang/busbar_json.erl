%% JSON: objects are maps with binaries as keys, texts are binaries, null is the atom null.
-module(busbar_json).
-export([decode/1, encode/1]).

decode(Text) ->
    {Value, _Rest} = value(space(Text)),
    Value.

value(<<"{", Rest/binary>>) -> members(space(Rest), #{});
value(<<"[", Rest/binary>>) -> items(space(Rest), []);
value(<<"\"", Rest/binary>>) -> text(Rest, Rest, 0, []);
value(<<"true", Rest/binary>>) -> {true, Rest};
value(<<"false", Rest/binary>>) -> {false, Rest};
value(<<"null", Rest/binary>>) -> {null, Rest};
value(Text) -> number(Text, 0, false).

space(<<C, Rest/binary>>) when C =< $\s -> space(Rest);
space(Text) -> Text.

members(<<"}", Rest/binary>>, Map) -> {Map, Rest};
members(<<",", Rest/binary>>, Map) -> members(space(Rest), Map);
members(<<"\"", Rest/binary>>, Map) ->
    {Name, AfterName} = text(Rest, Rest, 0, []),
    <<":", AfterColon/binary>> = space(AfterName),
    {Value, AfterValue} = value(space(AfterColon)),
    members(space(AfterValue), Map#{Name => Value}).

items(<<"]", Rest/binary>>, Items) -> {lists:reverse(Items), Rest};
items(<<",", Rest/binary>>, Items) -> items(space(Rest), Items);
items(Text, Items) ->
    {Value, Rest} = value(Text),
    items(space(Rest), [Value | Items]).

text(<<"\"", Rest/binary>>, From, Length, Parts) ->
    {iolist_to_binary(lists:reverse([binary:part(From, 0, Length) | Parts])), Rest};
text(<<"\\u", Hex:4/binary, Rest/binary>>, From, Length, Parts) ->
    Part = binary:part(From, 0, Length),
    case {binary_to_integer(Hex, 16), Rest} of
        {High, <<"\\u", LowHex:4/binary, After/binary>>} when High >= 16#D800, High =< 16#DBFF ->
            Low = binary_to_integer(LowHex, 16),
            Code = 16#10000 + ((High - 16#D800) bsl 10) + (Low - 16#DC00),
            text(After, After, 0, [<<Code/utf8>>, Part | Parts]);
        {Code, _} ->
            text(Rest, Rest, 0, [<<Code/utf8>>, Part | Parts])
    end;
text(<<"\\", C, Rest/binary>>, From, Length, Parts) ->
    Escaped = case C of $n -> $\n; $t -> $\t; $r -> $\r; $b -> $\b; $f -> $\f; _ -> C end,
    text(Rest, Rest, 0, [<<Escaped>>, binary:part(From, 0, Length) | Parts]);
text(<<_, Rest/binary>>, From, Length, Parts) -> text(Rest, From, Length + 1, Parts).

number(Text, Length, IsFloat) ->
    case Text of
        <<_:Length/binary, C, _/binary>> when C >= $0, C =< $9; C =:= $-; C =:= $+ ->
            number(Text, Length + 1, IsFloat);
        <<_:Length/binary, C, _/binary>> when C =:= $.; C =:= $e; C =:= $E ->
            number(Text, Length + 1, true);
        <<Number:Length/binary, Rest/binary>> when Length > 0 ->
            {case IsFloat of true -> to_float(Number); false -> binary_to_integer(Number) end, Rest}
    end.

%% 1e5 is no float in Erlang, 1.0e5 is.
to_float(Number) ->
    case binary:match(Number, <<".">>) of
        nomatch ->
            [Digits, Exponent] = binary:split(Number, [<<"e">>, <<"E">>]),
            binary_to_float(<<Digits/binary, ".0e", Exponent/binary>>);
        _ -> binary_to_float(Number)
    end.

encode(null) -> <<"null">>;
encode(undefined) -> <<"null">>;
encode(true) -> <<"true">>;
encode(false) -> <<"false">>;
encode(Atom) when is_atom(Atom) -> quoted(atom_to_binary(Atom));
encode(Text) when is_binary(Text) -> quoted(Text);
encode(Number) when is_integer(Number) -> integer_to_binary(Number);
encode(Number) when is_float(Number) -> float_to_binary(Number, [short]);
encode(List) when is_list(List) ->
    [$[, lists:join($,, [encode(Item) || Item <- List]), $]];
encode(Map) when is_map(Map) ->
    Members = [[encode(to_text(Name)), $:, encode(Value)] || {Name, Value} <- maps:to_list(Map)],
    [${, lists:join($,, Members), $}].

to_text(Name) when is_atom(Name) -> atom_to_binary(Name);
to_text(Name) -> Name.

quoted(Text) -> [$", escape(Text, Text, 0, []), $"].

escape(<<>>, From, _Length, []) -> From;
escape(<<>>, From, Length, Parts) -> lists:reverse([binary:part(From, 0, Length) | Parts]);
escape(<<C, Rest/binary>>, From, Length, Parts) when C < $\s; C =:= $"; C =:= $\\ ->
    Escaped = case C of
        $" -> <<"\\\"">>;
        $\\ -> <<"\\\\">>;
        _ -> iolist_to_binary(io_lib:format("\\u~4.16.0b", [C]))
    end,
    escape(Rest, Rest, 0, [Escaped, binary:part(From, 0, Length) | Parts]);
escape(<<_, Rest/binary>>, From, Length, Parts) -> escape(Rest, From, Length + 1, Parts).
