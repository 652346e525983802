// HAPI, the HL7 library of Java, as the other side of a node: it sends ADT^A01 to the node's MLLP gateway, and receives from
// the node's sink: java -cp CLASSPATH Cases.java GATEWAY_PORT SINK_PORT. Ends with an exception at the first case that fails.
import ca.uhn.hl7v2.*;
import ca.uhn.hl7v2.app.Connection;
import ca.uhn.hl7v2.app.HL7Service;
import ca.uhn.hl7v2.llp.MinLowerLayerProtocol;
import ca.uhn.hl7v2.model.Message;
import ca.uhn.hl7v2.model.v25.message.*;
import ca.uhn.hl7v2.model.v25.segment.*;
import ca.uhn.hl7v2.app.Initiator;
import ca.uhn.hl7v2.protocol.ReceivingApplication;
import ca.uhn.hl7v2.protocol.ReceivingApplicationException;
import ca.uhn.hl7v2.util.Terser;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.*;

public class Cases {
    static final int WAIT_SECONDS = 120;
    static final int MESSAGES = 200;
    static final String NAME = "O'Neil|&^~\\ 王丽";

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(String.valueOf(what));
    }

    public static void main(String[] args) throws Exception {
        int gateway = Integer.parseInt(args[0]), sink = Integer.parseInt(args[1]);
        DefaultHapiContext context = new DefaultHapiContext();
        MinLowerLayerProtocol framing = new MinLowerLayerProtocol();
        framing.setCharset(StandardCharsets.UTF_8);
        context.setLowerLayerProtocol(framing);
        BlockingQueue<String> received = new LinkedBlockingQueue<>();
        HL7Service server = context.newServer(sink, false);
        server.registerApplication(new ReceivingApplication<Message>() {
            public Message processMessage(Message message, Map<String, Object> more) throws ReceivingApplicationException {
                try {
                    Terser terser = new Terser(message);
                    String patient = terser.get("/PID-3-1"), name = terser.get("/PID-5-1");
                    if ("13".equals(patient)) {
                        return message.generateACK(AcknowledgmentCode.AE, new HL7Exception("no such patient"));
                    }
                    check("ADT".equals(terser.get("/MSH-9-1")), message);
                    received.add(patient + " " + name + " " + terser.get("/PID-7-1"));
                    return message.generateACK();
                } catch (Exception why) {
                    throw new ReceivingApplicationException(why);
                }
            }

            public boolean canProcess(Message message) {
                return true;
            }
        });
        server.startAndWait();
        Connection connection = context.newClient("127.0.0.1", gateway, false);
        Initiator initiator = connection.getInitiator();
        initiator.setTimeout(WAIT_SECONDS, TimeUnit.SECONDS);
        acknowledged(initiator);
        refused(initiator);
        arrived(received);
        connection.close();
        server.stopAndWait();
        context.close();
        System.out.println("ok");
        System.exit(0);
    }

    static ADT_A01 admission(int patient) throws Exception {
        ADT_A01 adt = new ADT_A01();
        adt.initQuickstart("ADT", "A01", "P");
        MSH msh = adt.getMSH();
        msh.getSendingApplication().getNamespaceID().setValue("HIS");
        msh.getReceivingApplication().getNamespaceID().setValue("BUS");
        msh.getMessageControlID().setValue("C" + patient);
        msh.getCharacterSet(0).setValue("UNICODE UTF-8");
        PID pid = adt.getPID();
        pid.getPatientIdentifierList(0).getIDNumber().setValue(Integer.toString(patient));
        pid.getPatientName(0).getFamilyName().getSurname().setValue(NAME);
        pid.getDateTimeOfBirth().getTime().setValue("19700102");
        return adt;
    }

    static void acknowledged(Initiator initiator) throws Exception {
        for (int n = 0; n < MESSAGES; n++) {
            Message answer = initiator.sendAndReceive(admission(n));
            check(answer instanceof ACK, answer);
            ACK ack = (ACK) answer;
            check("AA".equals(ack.getMSA().getAcknowledgmentCode().getValue()), ack);
            check(("C" + n).equals(ack.getMSA().getMessageControlID().getValue()), ack);
            check("BUS".equals(ack.getMSH().getSendingApplication().getNamespaceID().getValue()), ack);
            check("HIS".equals(ack.getMSH().getReceivingApplication().getNamespaceID().getValue()), ack);
            check("A01".equals(ack.getMSH().getMessageType().getTriggerEvent().getValue()), ack);
        }
    }

    /** The topic names PID-3, which is not there. */
    static void refused(Initiator initiator) throws Exception {
        ADT_A01 adt = admission(1);
        adt.getPID().getPatientIdentifierList(0).getIDNumber().clear();
        ACK ack = (ACK) initiator.sendAndReceive(adt);
        check("AE".equals(ack.getMSA().getAcknowledgmentCode().getValue()), ack);
        check("HL70357".equals(ack.getERR().getHL7ErrorCode().getNameOfCodingSystem().getValue()), ack);
        check(ack.getERR().getUserMessage().getValue().contains("topic"), ack);
    }

    /** What the node has sent on, made of columns, in order; all but the one that was refused. */
    static void arrived(BlockingQueue<String> received) throws Exception {
        for (int n = 0; n < MESSAGES; n++) {
            if (n == 13) continue;
            String next = received.poll(WAIT_SECONDS, TimeUnit.SECONDS);
            check((n + " " + NAME + " 19700102000000+0000").equals(next), n + ": " + next);
        }
    }
}
