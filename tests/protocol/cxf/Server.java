// Services of Apache CXF: document/literal with a header, rpc/literal, SOAP 1.2, and one that answers with an attachment.
//
//     java -cp CLASSPATH Server.java PORT
//
// Prints "ready", and ends with its standard input.

import jakarta.jws.WebMethod;
import jakarta.jws.WebParam;
import jakarta.jws.WebResult;
import jakarta.jws.WebService;
import jakarta.jws.soap.SOAPBinding;
import jakarta.xml.bind.annotation.XmlAccessType;
import jakarta.xml.bind.annotation.XmlAccessorType;
import jakarta.xml.bind.annotation.XmlAttribute;
import jakarta.xml.bind.annotation.XmlElement;
import jakarta.xml.bind.annotation.XmlType;
import jakarta.xml.ws.BindingType;
import jakarta.xml.ws.Endpoint;
import jakarta.xml.ws.soap.MTOM;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.List;
import org.apache.cxf.binding.soap.Soap11;
import org.apache.cxf.binding.soap.Soap12;
import org.apache.cxf.binding.soap.SoapFault;
import org.apache.cxf.binding.soap.SoapVersion;
import org.w3c.dom.Document;
import org.w3c.dom.Element;

public class Server {
    static final String NAMESPACE = "urn:cxf:ward";

    @XmlType(namespace = NAMESPACE)
    @XmlAccessorType(XmlAccessType.FIELD)
    public static class Session {
        @XmlAttribute(required = true)
        public int id;
        @XmlElement(required = true)
        public String user;
    }

    @XmlType(namespace = NAMESPACE)
    @XmlAccessorType(XmlAccessType.FIELD)
    public static class Charge {
        @XmlAttribute(required = true)
        public String code;
        @XmlElement(required = true)
        public BigDecimal amount;
    }

    @XmlType(namespace = NAMESPACE)
    @XmlAccessorType(XmlAccessType.FIELD)
    public static class Patient {
        @XmlAttribute(required = true)
        public long id;
        @XmlElement(required = true)
        public String name;
        public List<Charge> charges = new ArrayList<>();
    }

    static Patient patient(long pid, String name) {
        Patient patient = new Patient();
        patient.id = pid;
        patient.name = name;
        for (int n = 1; n <= 2; n++) {
            Charge charge = new Charge();
            charge.code = "c" + n;
            charge.amount = new BigDecimal(n + ".50");
            patient.charges.add(charge);
        }
        return patient;
    }

    /** A fault of the caller with a detail. */
    static SoapFault nobody(long pid, SoapVersion version) {
        SoapFault fault = new SoapFault("nobody has the number " + pid, version.getSender());
        Element detail = fault.getOrCreateDetail();
        Document document = detail.getOwnerDocument();
        Element inner = document.createElementNS("urn:cxf:fault", "f:number");
        inner.setTextContent(Long.toString(pid));
        detail.appendChild(inner);
        return fault;
    }

    @WebService(serviceName = "Ward", portName = "WardPort", targetNamespace = NAMESPACE)
    public static class Ward {
        @WebMethod
        @WebResult(name = "patient", targetNamespace = NAMESPACE)
        public Patient getPatient(
                @WebParam(name = "pid", targetNamespace = NAMESPACE) long pid,
                @WebParam(name = "session", header = true, targetNamespace = NAMESPACE) Session session) {
            if (pid > 5) {
                throw nobody(pid, Soap11.getInstance());
            }
            String who = session == null ? "nobody" : session.user + " " + session.id;
            return patient(pid, who + " <王> " + pid);
        }
    }

    @WebService(serviceName = "Parts", portName = "PartsPort", targetNamespace = NAMESPACE)
    @SOAPBinding(style = SOAPBinding.Style.RPC)
    public static class Parts {
        @WebMethod
        @WebResult(partName = "patient")
        public Patient put(@WebParam(partName = "patient") Patient patient, @WebParam(partName = "final") boolean isFinal) {
            patient.name = patient.name + (isFinal ? "!" : "?");
            return patient;
        }
    }

    @WebService(serviceName = "Two", portName = "TwoPort", targetNamespace = NAMESPACE)
    @BindingType(jakarta.xml.ws.soap.SOAPBinding.SOAP12HTTP_BINDING)
    public static class Two {
        @WebMethod
        @WebResult(name = "twice")
        public int twice(@WebParam(name = "n") int n) {
            if (n > 5) {
                throw nobody(n, Soap12.getInstance());
            }
            return 2 * n;
        }
    }

    @MTOM
    @WebService(serviceName = "Scan", portName = "ScanPort", targetNamespace = NAMESPACE)
    public static class Scan {
        @WebMethod
        @WebResult(name = "image")
        public byte[] image(@WebParam(name = "n") int n) {
            return new byte[1 << 16];
        }
    }

    public static void main(String[] args) throws Exception {
        String base = "http://127.0.0.1:" + args[0];
        Endpoint.publish(base + "/ward", new Ward());
        Endpoint.publish(base + "/parts", new Parts());
        Endpoint.publish(base + "/two", new Two());
        Endpoint.publish(base + "/scan", new Scan());
        System.out.println("ready");
        while (System.in.read() >= 0) {
        }
        System.exit(0);
    }
}
