// Drives a node with Apache Qpid JMS: java -cp CLASSPATH Cases.java PORT. Ends with exit code 1 at the first case that
// fails.
import java.util.ArrayList;
import java.util.List;
import javax.jms.*;
import org.apache.qpid.jms.JmsConnectionFactory;

public class Cases {
    static final long WAIT_MS = 60_000;
    static String port;

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(String.valueOf(what));
    }

    static Connection connect(String client) throws Exception {
        Connection connection = new JmsConnectionFactory("amqp://127.0.0.1:" + port).createConnection();
        if (client != null) connection.setClientID(client);
        connection.start();
        return connection;
    }

    public static void main(String[] args) throws Exception {
        port = args[0];
        try {
            all();
        } catch (Throwable why) {
            why.printStackTrace();
            // Connections that are open would keep the program alive.
            System.exit(1);
        }
        System.out.println("ok");
    }

    static void all() throws Exception {
        queues();
        everyKindOfMessage();
        topics();
        durableSubscribers();
        requestAndReply();
        recovered();
        anonymousProducer();
        refused();
    }

    static void queues() throws Exception {
        Connection connection = connect(null);
        Session session = connection.createSession(false, Session.CLIENT_ACKNOWLEDGE);
        Queue queue = session.createQueue("orders");
        MessageProducer producer = session.createProducer(queue);
        for (int n = 0; n < 500; n++) producer.send(session.createTextMessage(Integer.toString(n)));
        MessageConsumer consumer = session.createConsumer(queue);
        for (int n = 0; n < 500; n++) {
            TextMessage got = (TextMessage) consumer.receive(WAIT_MS);
            check(got != null && got.getText().equals(Integer.toString(n)), n + " " + got);
            got.acknowledge();
        }
        check(consumer.receiveNoWait() == null, "the queue is not empty");
        connection.close();
    }

    static void everyKindOfMessage() throws Exception {
        Connection connection = connect(null);
        Session session = connection.createSession(false, Session.AUTO_ACKNOWLEDGE);
        Queue queue = session.createQueue("kinds");
        MessageProducer producer = session.createProducer(queue);
        producer.setPriority(7);
        producer.setTimeToLive(WAIT_MS);
        MessageConsumer consumer = session.createConsumer(queue);

        TextMessage text = session.createTextMessage("hello");
        text.setStringProperty("site", "north");
        text.setIntProperty("n", 5);
        text.setLongProperty("l", 1L << 40);
        text.setBooleanProperty("on", true);
        text.setDoubleProperty("d", 0.5);
        text.setByteProperty("b", (byte) -1);
        text.setShortProperty("s", (short) 300);
        text.setFloatProperty("f", 1.5f);
        text.setJMSType("kind");
        text.setJMSCorrelationID("c-1");
        text.setJMSReplyTo(session.createTopic("answers"));
        producer.send(text);
        TextMessage got = (TextMessage) consumer.receive(WAIT_MS);
        check(got.getText().equals("hello") && got.getStringProperty("site").equals("north"), got);
        for (String name : new String[] {"n", "l", "on", "d", "b", "s", "f"}) {
            check(got.getObjectProperty(name).equals(text.getObjectProperty(name)), name);
        }
        check(got.getJMSType().equals("kind") && got.getJMSCorrelationID().equals("c-1"), got);
        check(got.getJMSPriority() == 7 && got.getJMSDeliveryMode() == DeliveryMode.PERSISTENT, got);
        check(got.getJMSMessageID().equals(text.getJMSMessageID()), got.getJMSMessageID());
        check(got.getJMSTimestamp() == text.getJMSTimestamp(), got.getJMSTimestamp());
        check(got.getJMSExpiration() == text.getJMSExpiration(), got.getJMSExpiration());
        check(got.getJMSReplyTo() instanceof Topic, got.getJMSReplyTo());
        check(got.getJMSDestination().equals(queue), got.getJMSDestination());
        check(!got.getJMSRedelivered(), "it was delivered before");

        BytesMessage bytes = session.createBytesMessage();
        bytes.writeBytes(new byte[] {0, 1, -1});
        producer.send(bytes);
        BytesMessage gotBytes = (BytesMessage) consumer.receive(WAIT_MS);
        check(gotBytes.getBodyLength() == 3, gotBytes);

        MapMessage map = session.createMapMessage();
        map.setInt("i", 1);
        map.setString("t", "x");
        map.setBytes("bytes", new byte[] {7});
        producer.send(map);
        MapMessage gotMap = (MapMessage) consumer.receive(WAIT_MS);
        check(gotMap.getInt("i") == 1 && gotMap.getString("t").equals("x") && gotMap.getBytes("bytes")[0] == 7, gotMap);

        StreamMessage stream = session.createStreamMessage();
        stream.writeLong(5);
        stream.writeString("y");
        producer.send(stream);
        StreamMessage gotStream = (StreamMessage) consumer.receive(WAIT_MS);
        check(gotStream.readLong() == 5 && gotStream.readString().equals("y"), gotStream);

        producer.send(session.createObjectMessage(new ArrayList<>(List.of("a", "b"))));
        check(consumer.receive(WAIT_MS) instanceof ObjectMessage, "an object message");
        producer.send(session.createMessage());
        check(consumer.receive(WAIT_MS) != null, "a message without a body");
        connection.close();
    }

    static void topics() throws Exception {
        Connection connection = connect(null);
        Session session = connection.createSession(false, Session.AUTO_ACKNOWLEDGE);
        Topic topic = session.createTopic("news");
        MessageConsumer one = session.createConsumer(topic);
        MessageConsumer two = session.createConsumer(topic);
        session.createProducer(topic).send(session.createTextMessage("to both"));
        for (MessageConsumer each : List.of(one, two)) {
            check(((TextMessage) each.receive(WAIT_MS)).getText().equals("to both"), "a topic has many receivers");
        }
        MessageConsumer all = session.createConsumer(session.createTopic("gauge/+/rain"));
        session.createProducer(session.createTopic("gauge/g1/rain")).send(session.createTextMessage("4"));
        check(((TextMessage) all.receive(WAIT_MS)).getText().equals("4"), "wildcards");
        connection.close();
    }

    static void durableSubscribers() throws Exception {
        Connection sending = connect(null);
        Session session = sending.createSession(false, Session.AUTO_ACKNOWLEDGE);
        Topic topic = session.createTopic("weather");
        MessageProducer producer = session.createProducer(topic);
        Connection connection = connect("station");
        connection.createSession(false, Session.AUTO_ACKNOWLEDGE).createDurableSubscriber(topic, "sub");
        connection.close();
        producer.send(session.createTextMessage("while away"));
        connection = connect("station");
        Session again = connection.createSession(false, Session.AUTO_ACKNOWLEDGE);
        TopicSubscriber subscriber = again.createDurableSubscriber(topic, "sub");
        check(((TextMessage) subscriber.receive(WAIT_MS)).getText().equals("while away"), "it was kept");
        subscriber.close();
        again.unsubscribe("sub");
        try {
            again.unsubscribe("sub");
            throw new AssertionError("it was there after it had ended");
        } catch (InvalidDestinationException expected) {
        }
        producer.send(session.createTextMessage("to nobody"));
        subscriber = again.createDurableSubscriber(topic, "sub");
        producer.send(session.createTextMessage("new"));
        check(((TextMessage) subscriber.receive(WAIT_MS)).getText().equals("new"), "the old one has ended");
        connection.close();
        sending.close();
    }

    static void requestAndReply() throws Exception {
        Connection serving = connect(null), asking = connect(null);
        Session server = serving.createSession(false, Session.AUTO_ACKNOWLEDGE);
        MessageProducer answers = server.createProducer(null);
        server.createConsumer(server.createQueue("ask")).setMessageListener(message -> {
            try {
                TextMessage answer = server.createTextMessage(((TextMessage) message).getText() + "!");
                answer.setJMSCorrelationID(message.getJMSCorrelationID());
                answers.send(message.getJMSReplyTo(), answer);
            } catch (JMSException why) {
                throw new RuntimeException(why);
            }
        });
        Session client = asking.createSession(false, Session.AUTO_ACKNOWLEDGE);
        for (Destination replies : List.of(client.createTemporaryQueue(), client.createTemporaryTopic())) {
            MessageConsumer got = client.createConsumer(replies);
            TextMessage question = client.createTextMessage("hello");
            question.setJMSReplyTo(replies);
            question.setJMSCorrelationID("c");
            client.createProducer(client.createQueue("ask")).send(question);
            TextMessage answer = (TextMessage) got.receive(WAIT_MS);
            check(answer != null && answer.getText().equals("hello!") && answer.getJMSCorrelationID().equals("c"), answer);
        }
        serving.close();
        asking.close();
    }

    static void recovered() throws Exception {
        Connection connection = connect(null);
        Session session = connection.createSession(false, Session.CLIENT_ACKNOWLEDGE);
        Queue queue = session.createQueue("again");
        session.createProducer(queue).send(session.createTextMessage("m"));
        MessageConsumer consumer = session.createConsumer(queue);
        check(!consumer.receive(WAIT_MS).getJMSRedelivered(), "the first time");
        session.recover();
        Message again = consumer.receive(WAIT_MS);
        check(again.getJMSRedelivered() && again.getIntProperty("JMSXDeliveryCount") == 2, again);
        connection.close();
        connection = connect(null);
        session = connection.createSession(false, Session.AUTO_ACKNOWLEDGE);
        again = session.createConsumer(queue).receive(WAIT_MS);
        check(again != null && again.getJMSRedelivered(), again);
        connection.close();
    }

    static void anonymousProducer() throws Exception {
        Connection connection = connect(null);
        Session session = connection.createSession(false, Session.AUTO_ACKNOWLEDGE);
        MessageProducer producer = session.createProducer(null);
        Topic topic = session.createTopic("flat");
        MessageConsumer ofTopic = session.createConsumer(topic);
        producer.send(topic, session.createTextMessage("t"));
        check(ofTopic.receive(WAIT_MS) != null, "a topic");
        Queue queue = session.createQueue("flat-queue");
        producer.send(queue, session.createTextMessage("q"));
        check(session.createConsumer(queue).receive(WAIT_MS) != null, "a queue");
        connection.close();
    }

    static void refused() throws Exception {
        Connection connection = connect(null);
        Session session = connection.createSession(false, Session.AUTO_ACKNOWLEDGE);
        try {
            session.createConsumer(session.createQueue("q"), "n > 3");
            throw new AssertionError("a selector was taken");
        } catch (JMSException why) {
            check(why.getMessage().contains("selector"), why);
        }
        try {
            session.createBrowser(session.createQueue("q")).getEnumeration().hasMoreElements();
            throw new AssertionError("a queue was browsed");
        } catch (JMSException why) {
            check(why.getMessage().contains("browsed"), why);
        }
        try {
            connection.createSession(true, Session.SESSION_TRANSACTED);
            throw new AssertionError("a transaction was begun");
        } catch (JMSException why) {
            check(why.getMessage().contains("transactions"), why);
        }
        connection.close();
    }
}
