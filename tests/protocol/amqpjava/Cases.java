// Drives a node with RabbitMQ's Java client: java -cp CLASSPATH Cases.java PORT. Ends with an exception at the
// first case that fails.
import com.rabbitmq.client.*;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.*;

public class Cases {
    static final int WAIT_SECONDS = 60;

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(String.valueOf(what));
    }

    public static void main(String[] args) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setHost("127.0.0.1");
        factory.setPort(Integer.parseInt(args[0]));
        factory.setRequestedHeartbeat(5);
        try (Connection connection = factory.newConnection("java cases")) {
            confirmed(connection);
            propertiesComeBack(connection);
            consumedInOrder(connection);
            deadLettered(connection);
            rpc(connection);
            refused(connection);
        }
        System.out.println("ok");
    }

    static void confirmed(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        channel.confirmSelect();
        channel.queueDeclare("j", true, false, false, null);
        for (int n = 0; n < 2000; n++) {
            channel.basicPublish("", "j", MessageProperties.PERSISTENT_TEXT_PLAIN, Integer.toString(n).getBytes());
        }
        channel.waitForConfirmsOrDie(WAIT_SECONDS * 1000L);
        check(channel.messageCount("j") == 2000, channel.messageCount("j"));
        channel.close();
    }

    static void consumedInOrder(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        channel.basicQos(50);
        BlockingQueue<String> got = new LinkedBlockingQueue<>();
        String tag = channel.basicConsume("j", false, (t, d) -> {
            got.add(new String(d.getBody(), StandardCharsets.UTF_8));
            channel.basicAck(d.getEnvelope().getDeliveryTag(), false);
        }, t -> {});
        for (int n = 0; n < 2000; n++) {
            String text = got.poll(WAIT_SECONDS, TimeUnit.SECONDS);
            check(Integer.toString(n).equals(text), n + " " + text);
        }
        channel.basicCancel(tag);
        channel.close();
    }

    static void propertiesComeBack(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        Map<String, Object> headers = new HashMap<>();
        headers.put("site", "north");
        headers.put("level", 3L);
        headers.put("at", new Date(1_700_000_000_000L));
        headers.put("list", Arrays.asList(1, "two"));
        AMQP.BasicProperties sent = new AMQP.BasicProperties.Builder().contentType("text/plain").deliveryMode(2)
            .priority(1).correlationId("c").messageId("m").timestamp(new Date(1_700_000_000_000L)).headers(headers).build();
        String queue = channel.queueDeclare().getQueue();
        channel.basicPublish("", queue, sent, "x".getBytes());
        GetResponse got = channel.basicGet(queue, true);
        check(got != null, "nothing came");
        AMQP.BasicProperties back = got.getProps();
        check("text/plain".equals(back.getContentType()) && back.getDeliveryMode() == 2, back);
        check(sent.getTimestamp().equals(back.getTimestamp()) && back.getPriority() == 1, back);
        check(back.getHeaders().get("level").equals(3L) && back.getHeaders().get("at").equals(headers.get("at")), back);
        check("north".equals(back.getHeaders().get("site").toString()), back);
        check(back.getHeaders().get("list").toString().equals("[1, two]"), back.getHeaders());
        channel.close();
    }

    static void deadLettered(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        String dead = channel.queueDeclare().getQueue();
        Map<String, Object> arguments = new HashMap<>();
        arguments.put("x-dead-letter-exchange", "");
        arguments.put("x-dead-letter-routing-key", dead);
        String queue = channel.queueDeclare("", false, true, false, arguments).getQueue();
        channel.basicPublish("", queue, null, "x".getBytes());
        GetResponse got = channel.basicGet(queue, false);
        channel.basicNack(got.getEnvelope().getDeliveryTag(), false, false);
        GetResponse letter = null;
        for (long end = System.nanoTime() + WAIT_SECONDS * 1_000_000_000L; letter == null && System.nanoTime() < end; ) {
            letter = channel.basicGet(dead, true);
        }
        check(letter != null, "no dead letter");
        Map<?, ?> death = (Map<?, ?>) ((List<?>) letter.getProps().getHeaders().get("x-death")).get(0);
        check("rejected".equals(death.get("reason").toString()) && queue.equals(death.get("queue").toString()), death);
        channel.close();
    }

    static void rpc(Connection connection) throws Exception {
        Channel server = connection.createChannel();
        String queue = server.queueDeclare().getQueue();
        server.basicConsume(queue, true, (t, d) -> server.basicPublish("", d.getProperties().getReplyTo(),
            new AMQP.BasicProperties.Builder().correlationId(d.getProperties().getCorrelationId()).build(), d.getBody()), t -> {});
        Channel client = connection.createChannel();
        RpcClient rpc = new RpcClient(new RpcClientParams().channel(client).exchange("").routingKey(queue)
            .replyTo(client.queueDeclare().getQueue()).timeout(WAIT_SECONDS * 1000));
        check("ping".equals(rpc.stringCall("ping")), "rpc");
        rpc.close();
        server.close();
    }

    static void refused(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        try {
            channel.queueDeclarePassive("none");
            throw new AssertionError("the queue is there");
        } catch (java.io.IOException why) {
            ShutdownSignalException signal = (ShutdownSignalException) why.getCause();
            AMQP.Channel.Close close = (AMQP.Channel.Close) signal.getReason();
            check(close.getReplyCode() == 404 && close.getReplyText().equals("NOT_FOUND - no queue 'none' in vhost '/'"), close);
        }
        check(connection.isOpen(), "the connection was closed");
    }
}
