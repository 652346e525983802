%% Runs a plug-in in Erlang: reads batches of events from standard input and answers on standard output. A port has both,
%% so that what the program prints does not come between the frames.
-module(busbar_worker).
-export([start/1, write/1, ask/1]).

start([Module]) ->
    %% What the program prints goes to the log.
    group_leader(whereis(standard_error), self()),
    Port = open_port({fd, 0, 1}, [binary, stream, eof]),
    erlang:put(busbar_port, Port),
    erlang:put(busbar_rest, <<>>),
    erlang:put(busbar_waiting, []),
    erlang:put(busbar_asked, 0),
    #{<<"settings">> := Settings} = next(),
    persistent_term:put(busbar_settings, Settings),
    try
        {module, Module} = code:ensure_loaded(Module),
        true = erlang:function_exported(Module, process, 1)
    of
        true ->
            write(#{type => ready, protocol => 1, credit => 2}),
            loop(Module)
    catch
        _:_ ->
            Message = io_lib:format("the module ~s exports no process/1", [Module]),
            write(#{type => failed, error => #{message => iolist_to_binary(Message)}}),
            halt(0)
    end.

loop(Module) ->
    case next() of
        #{<<"type">> := <<"batch">>, <<"id">> := Id, <<"events">> := Events} ->
            Results = [work(Module, Event) || Event <- Events],
            send([<<"{\"type\":\"result\",\"id\":">>, integer_to_binary(Id), <<",\"events\":[">>,
                lists:join($,, Results), <<"]}\n">>]),
            loop(Module);
        #{<<"type">> := <<"ping">>} ->
            write(#{type => pong}),
            loop(Module);
        #{<<"type">> := <<"stop">>} ->
            halt(0);
        _ ->
            loop(Module)
    end.

work(Module, Event) ->
    try busbar_json:encode(Module:process(Event))
    catch
        Class:Reason:Stack -> busbar_json:encode(#{error => failure(Module, Class, Reason, Stack)})
    end.

failure(Module, Class, Reason, Stack) ->
    Text = iolist_to_binary(io_lib:format("~p: ~0tp", [Class, Reason])),
    Folder = folder(Module),
    Own = [Place || {M, _, _, Place} <- Stack, is_own(M, Folder), lists:keymember(line, 1, Place)],
    case Own of
        [Place | _] ->
            {file, File} = lists:keyfind(file, 1, Place),
            {line, Line} = lists:keyfind(line, 1, Place),
            #{message => Text, file => list_to_binary(filename:basename(File)), line => Line};
        [] ->
            #{message => Text}
    end.

%% Whether a module is one of the plug-in's; those of this kit lie in the same folder.
is_own(Module, Folder) ->
    folder(Module) =:= Folder andalso not lists:prefix("busbar", atom_to_list(Module)).

folder(Module) ->
    case code:which(Module) of
        Path when is_list(Path) -> filename:dirname(Path);
        _ -> none
    end.

next() ->
    case erlang:get(busbar_waiting) of
        [Frame | Rest] ->
            erlang:put(busbar_waiting, Rest),
            Frame;
        [] ->
            read([erlang:get(busbar_rest)])
    end.

%% The next line, as a frame. Parts of it are put together once, at its end.
read([Last | Before]) ->
    case binary:split(Last, <<"\n">>) of
        [End, Rest] ->
            erlang:put(busbar_rest, Rest),
            busbar_json:decode(iolist_to_binary(lists:reverse([End | Before])));
        [_] ->
            Port = erlang:get(busbar_port),
            receive
                {Port, {data, Data}} -> read([Data, Last | Before]);
                {Port, eof} -> halt(0)
            end
    end.

write(Frame) -> send([busbar_json:encode(Frame), $\n]).

send(Line) ->
    true = port_command(erlang:get(busbar_port), Line),
    ok.

ask(Request) ->
    Id = erlang:get(busbar_asked) + 1,
    erlang:put(busbar_asked, Id),
    write(#{type => rows, id => Id, request => Request}),
    answer(Id).

answer(Id) ->
    case read([erlang:get(busbar_rest)]) of
        #{<<"type">> := <<"rows">>, <<"id">> := Id, <<"error">> := Error} -> error({busbar, Error});
        #{<<"type">> := <<"rows">>, <<"id">> := Id, <<"rows">> := Rows} -> Rows;
        Other ->
            erlang:put(busbar_waiting, erlang:get(busbar_waiting) ++ [Other]),
            answer(Id)
    end.
